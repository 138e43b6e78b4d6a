"""What to say when a model or tokenizer cannot be loaded, and how to notice that one was loaded in part only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_lightning.models.sources import cache_directory


def brief(error: Exception) -> str:
    """The first line of an error, without its full stop; other libraries' messages can run over pages."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return (
            "it needs Python code that comes with it, which is not run unasked. If you trust its author, set "
            "model.init_args.trust_remote_code to true"
        )
    if "ignore_mismatched_sizes" in text:  # refers to a log that is switched off
        return "the weights do not have the shapes that config.json gives"
    line = text.split("\n")[0].rstrip()
    line = " ".join(text.split()) if line.endswith(":") else line
    return line.rstrip(".") if len(line) < 250 else line[:247] + "..."


def remedy(name: str) -> str:
    """What to do about a model that cannot be loaded from `name`."""
    if cache_directory() in Path(name).parents:
        return "Delete that directory; it is a copy and will be made again."
    return "Check the name, or restore the model's files."


def missing_tensors(model: Any, loading: dict[str, Any], name: str) -> list[str]:
    """Names of the tensors that `name` lacks, for which transformers has drawn random numbers.

    Args:
        model: The causal LM as loaded.
        loading: What `from_pretrained` gave with `output_loading_info`.
        name: Where it was loaded from.
    """
    missing = set(loading["missing_keys"])
    if (Path(name) / "scalar_head.safetensors").is_file():  # a reward model has no unembedding, and needs none
        unembedding = model.get_output_embeddings()
        missing -= {f"{n}.weight" for n, m in model.named_modules() if m is unembedding}
    return sorted(missing)
