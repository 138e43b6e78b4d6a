"""Checks of configuration files and of the trainer's options that parser and Trainer leave to chance."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError

_NESTED = ("optimizer", "schedule", "sampling", "kl", "ending", "ptx", "memory")


def check_files(args: Sequence[str] | None) -> None:
    """Check the files given with `--config`; the parser's own report names no file, and it takes repeated keys.

    Raises:
        UserError: A file is not YAML with a mapping at the top, or gives a key twice.
    """
    for name in _config_names(sys.argv[1:] if args is None else args):
        path = Path(name)
        if not path.is_file():
            continue  # not there, or YAML itself; the parser says so
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            raise UserError(f"--config: {name} is not UTF-8 (byte {error.start + 1}). Save it as UTF-8.") from error
        except yaml.YAMLError as error:
            raise UserError(f"--config: {name}{_position(error)}: broken YAML ({_problem(error)}).") from error
        except OSError as error:
            raise UserError(f"--config: {name} cannot be read ({error.strerror}).") from error
        if not isinstance(node, yaml.MappingNode):
            found = "is empty" if node is None else "holds no keys"
            raise UserError(f"--config: {name} {found}; it must give keys such as `trainer:`, `model:` and `data:`.")
        _check_repeated(node, name)


def _config_names(args: Sequence[str]) -> Iterator[str]:
    for arg, following in pairwise([*args, ""]):
        if arg in ("--config", "-c"):
            yield following
        elif arg.startswith("--config="):
            yield arg.removeprefix("--config=")


def _position(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or " ".join(str(error).split())[:200]


def _check_repeated(node: yaml.Node, name: str, above: str = "") -> None:
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _check_repeated(child, name, above)
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        full = f"{above}{key.value}"
        if full in seen:
            raise UserError(f"--config: {name}, line {key.start_mark.line + 1}: {full} is given twice; keep one.")
        seen.add(full)
        _check_repeated(value, name, f"{full}.")


def check_settings(config: Any) -> None:
    """Check that groups of options are groups; the parser takes a bare value where they are nested in a class.

    Raises:
        UserError: A value stands in place of a group, or a seed is out of bounds.
    """
    for part in ("model", "data"):
        seed = ((config.get(part) or {}).get("init_args") or {}).get("seed")
        check_number(f"{part}.init_args.seed", seed, at_least=0, below=2**32)
    chosen = (config.get("model") or {}).get("init_args") or {}
    for name in _NESTED:
        if name in chosen and not hasattr(chosen[name], "items"):
            raise UserError(f"model.init_args.{name} is {chosen[name]!r}; give its options, one key each.")


def check_trainer(trainer: Any) -> None:
    """Check options for which the Trainer has no message, or only one when training has begun.

    Raises:
        UserError: An option is out of bounds, or asks for a device that is not there.
    """
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise UserError(f"trainer.{name} is 0, so nothing would be trained. Raise it, or leave it out.")
    check_number("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, at_least=1)
    check_number("trainer.gradient_clip_val", trainer.gradient_clip_val, at_least=0)
    _check_devices(trainer)


def _check_devices(trainer: Any) -> None:
    import torch

    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if trainer.accelerator in ("gpu", "cuda") and not gpu:
        raise UserError(
            f"trainer.accelerator is {trainer.accelerator!r}, but torch finds no GPU here. Set it to cpu or auto."
        )
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not gpu)
    devices, cores = str(trainer.devices), os.cpu_count() or 1
    if on_cpu and devices.isdigit() and int(devices) > max(cores, 2):
        # Each would be a process of its own, and Lightning would start them all.
        raise UserError(
            f"trainer.devices is {devices}, but this machine has {cores} CPU cores. Lower it, or give auto."
        )
