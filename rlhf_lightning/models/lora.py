"""What the user can say about LoRA, and its translation to PEFT."""

from __future__ import annotations

from dataclasses import dataclass

from peft import LoraConfig

from rlhf_lightning.bounds import check_number
from rlhf_lightning.models.quantized import Bits, require_package


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (arXiv 2106.09685). The paper trains all weights; adapters let four roles share one base."""

    rank: int = 16
    """Rank of each update."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the update in SFT and reward training; PPO is always without."""
    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: "all-linear", a regular expression, or a list of name endings."""
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
