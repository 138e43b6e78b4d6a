"""What this project's sides have in common: a plain Lightning trainer, and a callback that times its steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import lightning as L

from benchmarks.peer.meter import Meter
from rlhf_lightning.cli import quieten
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings

Facts = Callable[[int, Any], dict[str, float]]


class TimeSteps(L.Callback):
    """Times optimizer steps; one batch is one step."""

    def __init__(self, meter: Meter, facts: Facts) -> None:
        """
        Args:
            meter: Where steps are noted.
            facts: What the step of that number and its batch amount to.
        """
        self.meter, self.facts = meter, facts

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.meter.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(trainer.callback_metrics["train/loss"])
        self.meter.end_step(loss=loss, **self.facts(len(self.meter.steps), batch))


def optimizer(task: dict[str, Any]) -> OptimizerSettings:
    """AdamW with the learning rate of the task and the defaults of this project, which the peer is given too."""
    return OptimizerSettings(lr=task["lr"])


def schedule() -> ScheduleSettings:
    """A constant learning rate: the simplest one that both sides have."""
    return ScheduleSettings("constant")


def run(
    task: dict[str, Any], module: L.LightningModule, data: L.LightningDataModule, callbacks: list[L.Callback]
) -> None:
    """Train for the epochs (PPO: iterations) of the task."""
    quieten()
    with tempfile.TemporaryDirectory() as directory:
        trainer = L.Trainer(
            accelerator=task["device"],
            devices=1,
            precision={"bf16": "bf16-mixed", "float32": "32-true"}[task["precision"]],
            max_epochs=task.get("iterations", 1),
            gradient_clip_val=task["clip"],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            default_root_dir=directory,
        )
        trainer.fit(module, datamodule=data)
