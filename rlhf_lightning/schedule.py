"""Optimizer and learning-rate schedule, with the paper's numbers as defaults where it gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rlhf_lightning.bounds import check_number


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. β1, β2: App. C. The paper gives neither ε, weight decay nor gradient clipping."""

    lr: float = 1e-4
    """Peak learning rate. The default suits LoRA; the paper's full fine-tuning uses about 1e-5."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.95
    """Decay of the gradient's square."""
    eps: float = 1e-8
    """torch's default."""
    weight_decay: float = 0.0
    """0: adapters start at the model we want to stay near."""
    max_skipped_steps: int = 10
    """Steps without a finite gradient are skipped; more than this in a row end the run."""

    def __post_init__(self) -> None:
        key = "model.init_args.optimizer"
        check_number(f"{key}.lr", self.lr, at_least=0)
        check_number(f"{key}.beta1", self.beta1, at_least=0, below=1)
        check_number(f"{key}.beta2", self.beta2, at_least=0, below=1)
        check_number(f"{key}.eps", self.eps, above=0)
        check_number(f"{key}.weight_decay", self.weight_decay, at_least=0)
        check_number(f"{key}.max_skipped_steps", self.max_skipped_steps, at_least=0)

    def adamw(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.AdamW:
        """The optimizer; fused, a step over hundreds of small adapters takes a fifth of the time.

        Args:
            groups: Parameter groups, each with its own `lr`.
            fused: One kernel for all tensors.
        """
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(
            groups, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, fused=fused
        )


@dataclass(frozen=True)
class ScheduleSettings:
    """Warmup, then constant (PPO, C.4) or a cosine down to a fraction of the peak (SFT and reward, C.1-C.2)."""

    name: Literal["cosine", "constant"] = "cosine"
    """Shape after the warmup."""
    warmup: float = 0.0
    """Length of the warmup in optimizer steps, or below 1 as a fraction of all steps."""
    warmup_start: float = 0.1
    """Fraction of the peak at which the warmup starts."""
    final: float = 0.1
    """Fraction of the peak at which the cosine ends."""

    @property
    def needs_length(self) -> bool:
        """Whether the rates depend on how long the run is."""
        return self.name == "cosine" or 0 < self.warmup < 1

    def __post_init__(self) -> None:
        key = "model.init_args.schedule"
        check_number(f"{key}.warmup", self.warmup, at_least=0)
        check_number(f"{key}.warmup_start", self.warmup_start, at_least=0, at_most=1)
        check_number(f"{key}.final", self.final, at_least=0, at_most=1)


def lr_factor(settings: ScheduleSettings, total_steps: float) -> Callable[[int], float]:
    """The learning rate of each optimizer step as a fraction of the peak.

    Args:
        settings: Shape of the schedule.
        total_steps: Optimizer steps of the whole run.

    >>> factor = lr_factor(ScheduleSettings("constant", warmup=10), 100)
    >>> round(factor(0), 2), round(factor(5), 2), factor(10), factor(99)
    (0.1, 0.55, 1.0, 1.0)
    >>> round(lr_factor(ScheduleSettings("cosine"), 100)(100), 2)
    0.1
    """
    warmup = settings.warmup * total_steps if 0 < settings.warmup < 1 else settings.warmup

    def factor(step: int) -> float:
        if step < warmup:
            return settings.warmup_start + (1 - settings.warmup_start) * step / warmup
        if settings.name == "constant":
            return 1.0
        progress = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
        return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor
