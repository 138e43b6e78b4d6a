"""What the peer's sides have in common. Runs in the peer's environment, where this project is not installed."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.peer.meter import Meter


class TimeSteps(TrainerCallback):  # type: ignore[misc]
    """Times optimizer steps (PPO: iterations), with what was gathered since the last."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.gathered: dict[str, Any] = {}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.meter.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.meter.end_step(**self.gathered)
        self.gathered.clear()


def rows(task: dict[str, Any]) -> dict[str, list[Any]]:
    """The task's token ids, column by column."""
    read = [json.loads(line) for line in Path(task["peer"]).read_text().splitlines()]
    return {name: [r[name] for r in read] for name in read[0]}


def dtype(task: dict[str, Any]) -> torch.dtype:
    """Of frozen base weights."""
    found: torch.dtype = getattr(torch, task["peer_dtype"])
    return found


def arguments(task: dict[str, Any], trains_in: str) -> dict[str, Any]:
    """Training arguments that every trainer of the peer takes."""
    common: dict[str, Any] = {
        "output_dir": trains_in,
        "use_cpu": task["device"] == "cpu",
        "bf16": task["precision"] == "bf16",
        "learning_rate": task["lr"],
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": task["clip"] or 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 10**6,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": task["seed"],
    }
    if task["tuned"]:
        common["gradient_checkpointing"] = False
    return common


def count_losses(trainer: Any, steps: TimeSteps, facts: Any) -> None:
    """Gather the loss of every micro-batch, and what `facts` makes of its inputs."""
    compute = trainer.compute_loss

    def compute_loss(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        found = facts(inputs)
        loss = compute(model, inputs, *args, **kwargs)
        value = loss[0] if isinstance(loss, tuple) else loss
        found["losses"] = [float(value.detach())]
        for name, x in found.items():
            steps.gathered[name] = steps.gathered[name] + x if name in steps.gathered else x
        return loss

    trainer.compute_loss = compute_loss


def settle_losses(meter: Meter, mean: bool) -> None:
    """One loss a step from those of its micro-batches."""
    for step in meter.steps:
        losses = step.pop("losses")
        step["loss"] = sum(losses) / len(losses) if mean else sum(losses)


def finish(meter: Meter, task: dict[str, Any], trainer: Any) -> None:
    """Write the meter, with versions and the settings that the trainer really had."""
    meter.notes["versions"] = {p: version(p) for p in ("trl", "torch", "transformers", "peft", "accelerate")}
    names = ("gradient_checkpointing", "bf16", "per_device_train_batch_size", "gradient_accumulation_steps")
    meter.notes["settings"] = {n: getattr(trainer.args, n) for n in names}
    meter.notes["settings"]["autocast"] = str(trainer.accelerator.mixed_precision)
    meter.write(task["out"])


def directory() -> tempfile.TemporaryDirectory[str]:
    """Where the trainer may write."""
    return tempfile.TemporaryDirectory()
