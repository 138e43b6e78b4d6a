"""What the user can say about LoRA, and its translation to PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.directory_checks import read_json
from rlhf_lightning.models.quantized import Bits, require_package


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (arXiv 2106.09685). The paper trains all weights; adapters let four roles share one base.

    A stage that starts from an artefact with an adapter continues that one: its rank, alpha and layers hold, and
    other values than the defaults are refused. Choose them in SFT.
    """

    rank: int = 16
    """Rank of each update."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the update in SFT and reward training; PPO is always without."""
    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: "all-linear", a regular expression, or a list of name endings. Embeddings and the unembedding
    cannot have adapters."""
    base_bits: Bits | None = None
    """Keep the frozen base's linear layers in 4 (nf4) or 8 bits (int8), a seventh or a quarter of float32; needs
    bitsandbytes. Null keeps them in the run's precision. Adapters fit the base either way."""

    def __post_init__(self) -> None:
        key = "model.init_args.lora"
        check_number(f"{key}.rank", self.rank, at_least=1)
        check_number(f"{key}.alpha", self.alpha, above=0)
        check_number(f"{key}.dropout", self.dropout, at_least=0, below=1)
        require_package(self.base_bits)

    def peft_config(self) -> LoraConfig:
        """The same settings as PEFT wants them."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
        )


def check_adapted(lm: Any) -> None:
    """Check which layers of a causal LM have got adapters.

    Adapters change hidden states alone: logits are made of those afterwards, of the tokens that need them, and an
    adapter merged into an unembedding that is tied would change the embedding too.

    Raises:
        ValueError: An embedding has one, or the unembedding.
    """
    unembedding = lm.get_output_embeddings()
    layers = [(n, m) for n, m in lm.named_modules() if isinstance(m, LoraLayer)]
    if wrong := [n for n, m in layers if m is unembedding or isinstance(m.get_base_layer(), nn.Embedding)]:
        raise ValueError(
            "embeddings and the unembedding cannot have adapters; in the stage that makes the adapter, leave "
            f"{', '.join(sorted(wrong))} out of model.init_args.lora.target_modules"
        )


def continuing(lora: LoraSettings | None, adapter: Path | None, key: str) -> LoraSettings | None:
    """The same settings, once they are found not to contradict the adapter that a stage goes on with.

    Args:
        lora: What the user said, or the defaults.
        adapter: Directory of the adapter that the stage starts from, if there is one.
        key: Configuration key of the model.

    Raises:
        UserError: A rank, alpha or layers that are neither the defaults nor the adapter's.
    """
    if lora is None or adapter is None:
        return lora
    theirs, default = read_json(adapter / "adapter_config.json", key), LoraSettings()
    for name, saved in (("rank", "r"), ("alpha", "lora_alpha"), ("target_modules", "target_modules")):
        wanted, found = getattr(lora, name), _endings(theirs.get(saved))
        if wanted == getattr(default, name) or _endings(wanted) == found:
            continue
        raise UserError(
            f"model.init_args.lora.{name} is {wanted}, and the adapter in {key} has {found}, which this stage "
            "continues. Leave the key out, set it in the stage that made the adapter, or train all weights with "
            "model.init_args.lora null."
        )
    return lora


def _endings(value: object) -> object:
    """Of a list of layers the endings of their names, in order; PEFT may save whole names. Other values as they are."""
    return sorted({str(name).rpartition(".")[2] for name in value}) if isinstance(value, list) else value
