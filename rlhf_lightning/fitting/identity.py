"""What a checkpoint belongs to: a run that differs is not resumed unless the user says so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rlhf_lightning.errors import UserError

FLAG = "resume_with_changes"
_BY_CONTENT = {"base_model", "init_from", "policy_from", "reward_from", "train", "val", "demonstrations", "pretrain"}
"""Arguments that name files: what is in them is compared, not where they are."""
_WITHOUT_EFFECT = {"trust_remote_code", "num_workers", "self"}


def arguments_of(constructor: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor that change what a run computes, as plain values.

    Args:
        constructor: An `__init__`.
        values: Its `locals()`.
    """
    names = inspect.signature(constructor).parameters.keys() - _BY_CONTENT - _WITHOUT_EFFECT
    return {name: plain(values[name]) for name in sorted(names) if name in values}


def plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, and anything that is not plain by its text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    return value if isinstance(value, int | float | bool | str | type(None)) else repr(value)


def trainer_settings(trainer: Any, with_length: bool) -> dict[str, Any]:
    """What of the trainer changes the weights.

    Args:
        trainer: Lightning's.
        with_length: Compare the length of the run too; without a schedule that depends on it, it may be extended.
    """
    length = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
    overfit = {"overfit_batches": trainer.overfit_batches}
    return {
        **(length if with_length else {}),
        **(overfit if trainer.overfit_batches else {}),
        "precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": str(trainer.gradient_clip_algorithm),
        "limit_train_batches": trainer.limit_train_batches,
        "accelerator": trainer.strategy.root_device.type,
        "devices x num_nodes": trainer.world_size,
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two nested mappings differ, one line per key: `key: then -> now`.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    ['a.c: 2 -> 3']
    """
    lines = []
    for key in sorted(then.keys() | now.keys()):
        name, old, new = f"{prefix}{key}", then.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new:
            lines.append(f"{name}: {_short(old)} -> {_short(new)}")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def require_same(then: Mapping[str, Any], now: Mapping[str, Any], allow_changes: bool) -> None:
    """Compare the run that wrote a checkpoint with this one.

    Raises:
        UserError: They differ, and changes were not allowed.
    """
    changed = differences(then, now)
    if not changed:
        return
    listed = "; ".join(changed[:6]) + (f"; and {len(changed) - 6} more" if len(changed) > 6 else "")
    if allow_changes:
        print(f"Going on with a changed run, as --{FLAG} allows: {listed}")
        return
    raise UserError(
        f"--ckpt_path: the checkpoint is of another run (checkpoint -> now): {listed}. Restore these, or give "
        f"`--{FLAG} true` to go on all the same; the result is then no longer that of an uninterrupted run."
    )


class ChangedSettings(Callback):
    """Gives a run that goes on with changes the optimizer settings of its configuration, not of the checkpoint."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.ckpt_path is None or not pl_module.resume_with_changes:
            return
        optimizer, schedule = trainer.optimizers[0], pl_module.lr_schedulers()
        if not isinstance(optimizer, AdamW) or not isinstance(schedule, LambdaLR):
            return  # a subclass's own, which knows what it was given
        schedule.base_lrs = [own["lr"] for own in pl_module.parameter_groups()]
        for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group |= {name: optimizer.defaults[name] for name in ("betas", "eps", "weight_decay")}
            group |= {"initial_lr": base, "lr": base * factor(schedule.last_epoch)}
