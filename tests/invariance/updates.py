"""Trains a tiny stage through the Trainer and compares how far its weights have moved with another run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.stage import StageModule

EXACT = 0.0
"""The same sums in the same order."""
REORDERED = 1e-3
"""Relative to the largest change of a tensor: float32 sums in another order. One rounding is 6e-8 of a sum; gradients
of a few tokens' opposite signs cancel to a hundredth or thousandth of their terms, and four steps add up."""

SETTINGS: dict[str, Any] = {
    # With torch's ε of 1e-8 Adam divides gradients that are nothing but rounding by their own size; at 1e-3 the
    # update is a smooth function of the gradient, and so is its error.
    "optimizer": OptimizerSettings(lr=1e-2, eps=1e-3),
    "schedule": ScheduleSettings("constant"),
    "seed": 11,
}

Weights = dict[str, Tensor]


def train(root: Path, module: StageModule, data: L.LightningDataModule, **trainer: Any) -> tuple[Weights, Weights]:
    """Weights before and after."""
    settings: dict[str, Any] = {"max_epochs": 2, "gradient_clip_val": 1.0} | trainer
    module.configure_model()
    before = {n: p.detach().clone() for n, p in module.trainable().items()}
    L.Trainer(
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    ).fit(module, datamodule=data)
    return before, {n: p.detach().clone() for n, p in module.trainable().items()}


def distance(run: tuple[Weights, Weights], other: tuple[Weights, Weights]) -> float:
    """Largest difference of any weight, relative to the largest change of its tensor; infinite if nothing changed."""
    (start, one), (other_start, two) = run, other
    assert all(torch.equal(start[n], other_start[n]) for n in start)
    worst = 0.0
    for name, begin in start.items():
        moved = float((one[name] - begin).abs().max())
        apart = float((one[name] - two[name]).abs().max())
        if moved == 0:
            assert apart == 0, name
            continue
        worst = max(worst, apart / moved)
    assert any(not torch.equal(one[n], start[n]) for n in start), "nothing was trained"
    return worst
