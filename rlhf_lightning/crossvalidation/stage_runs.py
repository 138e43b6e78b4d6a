"""The reward stage's runs, one process after the other: the same commands that a user would type."""

from __future__ import annotations

import contextlib
import ctypes
import io
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import yaml

from rlhf_lightning.cli import run_stage
from rlhf_lightning.errors import UserError
from rlhf_lightning.reward.data import RankingDataModule

OURS = ("--trainer.default_root_dir", "--ckpt_path", "--overwrite")
"""Options of the stage that are set for every fold."""
_PARENT_DIED = 1  # PR_SET_PDEATHSIG of prctl(2)


def resolved(stage_args: Sequence[str]) -> dict[str, Any]:
    """The whole configuration that the arguments of a stage stand for, with nothing run.

    Raises:
        UserError: An option is one that every fold sets itself, or the stage is not the reward model's.
        ArgumentError: The stage would not accept the arguments.
    """
    for arg in stage_args:
        if arg.partition("=")[0] in OURS:
            raise UserError(f"{arg.partition('=')[0]}: every fold sets it itself; the runs go to --out. Leave it out.")
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        run_stage(["fit", *stage_args, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(text.getvalue())
    module, _, name = str((config.get("data") or {}).get("class_path")).rpartition(".")
    if not module or not issubclass(getattr(import_module(module), name), RankingDataModule):
        raise UserError(
            f"data.class_path: is {module}.{name}, but labelers are held out of a reward model's rankings. Give "
            "--config with a file for the reward stage, such as configs/tiny/reward.yaml."
        )
    return config


def run_process(args: Sequence[str], program: Sequence[str] = (sys.executable, "-m", "rlhf_lightning")) -> int:
    """Run a command of this package in a process of its own; its output is ours.

    A signal to stop is handed on, and ends us when the stage has ended: with a checkpoint.

    Args:
        args: The command line.
        program: What gets it.

    Returns:
        Its exit status; 128 + n where signal n killed it.
    """
    # Not in this process: strategies with several processes start the command line again, and memory is given back.
    process = subprocess.Popen([*program, *args], preexec_fn=_stop_with_parent)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the stage too
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _stop_with_parent() -> None:
    """On Linux: if the command is killed, its stage stops with a checkpoint and does not train beside a new start."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGTERM)
