"""Loading tokenizers and causal language models, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.load_errors import brief, missing_tensors, remedy
from rlhf_lightning.models.quantized import KEY, Bits, loading_options, use_whole_products
from rlhf_lightning.models.ragged_support import enable_ragged


def load_tokenizer(
    name: str,
    pad_token: str | None = None,
    key: str = "model.init_args.base_model",
    trust_remote_code: bool = False,
    need_pad: bool = True,
) -> Any:
    """A tokenizer, from a directory or Hub name, whose PAD is not its EOS.

    A PAD that is EOS hides where a response ends. Our own code reads masks, never PAD ids; but a reward model
    opened with plain transformers looks for the last token that is not PAD and would skip the EOS. Who only reads
    and samples, and writes no artefact, can do without (`need_pad=False`).

    Raises:
        UserError: No tokenizer there, no PAD, PAD = EOS (unless `pad_token` asks for it), or an unknown token.
    """
    from transformers import AutoTokenizer

    if Path(name).is_dir() and not any(Path(name).glob("*token*")) and not any(Path(name).glob("vocab*")):
        raise UserError(f"{key}: {name!r} has no tokenizer (tokenizer.json and others). Copy the model's own there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises half a dozen types for "not there"
        raise UserError(f"{key}: cannot load a tokenizer from {name!r}: {brief(error)}. {remedy(name)}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{key}: the tokenizer of {name!r} has no EOS token, so a model could never say that it has finished. "
            "Set eos_token in its tokenizer_config.json."
        )
    free = [t for t in tokenizer.all_special_tokens if t != tokenizer.eos_token]
    such = f", such as {free[:4]}" if free else ""
    hint = f"Set model.init_args.pad_token to an existing token that is never written{such}."
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise UserError(f"model.init_args.pad_token: {pad_token!r} is not in the vocabulary of {name!r}. {hint}")
        tokenizer.pad_token = pad_token
    elif not need_pad:
        return tokenizer
    elif tokenizer.pad_token is None:
        raise UserError(f"{key}: the tokenizer of {name!r} has no PAD token. {hint}")
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(f"{key}: the tokenizer of {name!r} uses EOS ({tokenizer.eos_token!r}) as PAD. {hint}")
    return tokenizer


def load_causal_lm(
    name: str,
    dtype: torch.dtype = torch.float32,
    key: str = "model.init_args.base_model",
    trust_remote_code: bool = False,
    bits: Bits | None = None,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """A causal language model from safetensors in a directory or on the Hub, in evaluation mode.

    Args:
        name: Directory or Hub name.
        dtype: Of its weights.
        key: Configuration key to name in an error.
        trust_remote_code: Run code that comes with the model.
        bits: Keep its linear layers in so many bits, frozen; `dtype` is then that of the rest and of products.
        config: Fields of its configuration to change.

    Raises:
        UserError: It cannot be loaded, or is quantized already; the message names `key`.
    """
    from transformers import AutoModelForCausalLM, PretrainedConfig

    try:
        _check_not_quantized(PretrainedConfig.get_config_dict(name)[0], name, key)
        quantized = loading_options(bits, dtype) if bits else {}
        model, loading = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **quantized,
            **(config or {}),
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{key}: cannot load a causal LM from {name!r}: {brief(error)}. {remedy(name)}") from error
    if missing := missing_tensors(model, loading, name):  # transformers would draw them at random
        raise UserError(
            f"{key}: the weights in {name!r} lack {len(missing)} tensors that its config.json asks for, such as "
            f"{missing[0]}. Restore the files of one model."
        )
    model.eval()
    if bits:
        use_whole_products(model)
    _check_plain_logits(model, name, key)
    enable_ragged(model)
    return model


def _check_not_quantized(config: Mapping[str, Any], name: str, key: str) -> None:
    """Layers of other packages merge adapters in ways of their own or not at all: only ours know what to do."""
    stored = config.get("quantization_config")
    if not stored:
        return
    method = stored.get("quant_method", "unknown method")
    raise UserError(
        f"{key}: the weights in {name!r} are quantized already ({method}). Give the model that they were made from; "
        f"{KEY} quantizes it while it is loaded."
    )


@torch.no_grad()
def _check_plain_logits(model: Any, name: str, key: str) -> None:
    """Logits must be the unembedding of the final hidden states and nothing more: we compute only the rows we need."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.get_input_embeddings().weight.device)
    hidden = model.base_model(input_ids=ids).last_hidden_state
    if not torch.allclose(model(input_ids=ids).logits, model.get_output_embeddings()(hidden), atol=1e-2, rtol=1e-2):
        raise UserError(
            f"{key}: {name!r} transforms its logits after the unembedding (a scale or soft cap); unsupported."
        )
