"""Tells from outside when a phase of a run begins and ends: Lightning's hooks, and a few wrapped public methods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning as L

BETWEEN = "between"
"""Everything that is no phase: callbacks, logging, reading of data."""


class RunPhases(L.Callback):
    """Calls `begin` and `end` around the phases of a run of any stage.

    ========== ================================================================================
    load       construction of data, module and weights, until training begins
    rollout    PPO: `PPOModule.sample`
    scoring    PPO: the rest of `PPOModule.collect`
    update     PPO: all minibatches of an iteration
    step       SFT and reward: forwards, backwards and optimizer step of a batch
    checkpoint `Trainer.save_checkpoint`
    artefact   the module's `write_artefact`
    ========== ================================================================================
    """

    def __init__(self) -> None:
        self.phase = "load"
        self.begin(self.phase)

    def begin(self, phase: str) -> None:
        """A phase begins."""

    def end(self, phase: str) -> None:
        """A phase has ended."""

    def enter(self, phase: str) -> None:
        """End the current phase and begin another; nothing happens if it is the current one."""
        if phase != self.phase:
            self.end(self.phase)
            self.phase = phase
            self.begin(phase)

    def surround(self, target: Any, method: str, phase: str) -> None:
        """Make a method of an object a phase."""
        original: Callable[..., Any] = getattr(target, method)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = self.phase
            self.enter(phase)
            try:
                return original(*args, **kwargs)
            finally:
                self.enter(before)

        setattr(target, method, wrapped)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.surround(trainer, "save_checkpoint", "checkpoint")
        self.surround(pl_module, "write_artefact", "artefact")
        self.in_ppo = hasattr(pl_module, "collect")
        if self.in_ppo:
            self.surround(pl_module, "collect", "scoring")
            self.surround(pl_module, "sample", "rollout")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.enter(BETWEEN)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.enter("update" if self.in_ppo else "step")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.in_ppo:
            self.enter(BETWEEN)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.enter(BETWEEN)
