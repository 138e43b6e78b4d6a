"""Callbacks that every stage brings along."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.run_lock import RunLock

if TYPE_CHECKING:
    from rlhf_lightning.stage import StageModule


class RunDirectory(Callback):
    """Checks before any work that the run directory can be written, and that nobody else is writing in it."""

    def __init__(self) -> None:
        self._lock = RunLock()

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:
            return
        check_writable(Path(trainer.default_root_dir))
        if trainer.is_global_zero:
            self._lock.acquire(Path(trainer.default_root_dir))

    def teardown(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        self._lock.release()

    def on_exception(self, trainer: Any, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._lock.release()

    def on_fit_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        """A fresh start moves aside what an earlier run left, so that it cannot pass for this run's."""
        if trainer.ckpt_path is not None or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        for name in ("lightning", "final"):
            left = Path(trainer.default_root_dir) / name
            if left.exists():
                shutil.rmtree(replaced(left), ignore_errors=True)
                left.rename(replaced(left))


def replaced(path: Path) -> Path:
    """Where an earlier run's directory waits until this run has finished."""
    return path.with_name(f"{path.name}-replaced")


def check_writable(root: Path, key: str = "trainer.default_root_dir") -> None:
    """Make the run directory if it is not there, and try to write in it.

    Args:
        root: The directory.
        key: Configuration key that named it.

    Raises:
        UserError: It cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UserError(f"{key}: cannot write to {str(root)!r}: {error.strerror}. Choose another directory.") from error


class WriteArtefact(Callback):
    """Writes `final/` when training has come to its end (not when it was interrupted)."""

    def __init__(self) -> None:
        self._written = False

    def on_train_end(self, trainer: Any, pl_module: StageModule) -> None:  # type: ignore[override]
        self._write(trainer, pl_module)

    def on_fit_end(self, trainer: Any, pl_module: StageModule) -> None:  # type: ignore[override]
        # A run that was killed between its last checkpoint and its artefact has nothing left to train, and
        # Lightning then calls no other hook than this one.
        if not self._written:
            pl_module.to(trainer.strategy.root_device)
            self._write(trainer, pl_module)

    def _write(self, trainer: Any, pl_module: StageModule) -> None:
        if trainer.fast_dev_run or trainer.interrupted:
            return
        self._written = True
        pl_module.before_artefact()
        if trainer.is_global_zero:
            root = Path(trainer.default_root_dir)
            pl_module.write_artefact(root / "final")
            for name in ("lightning", "final"):
                shutil.rmtree(replaced(root / name), ignore_errors=True)
        trainer.strategy.barrier()


def log_text(pl_module: L.LightningModule, name: str, markdown: str) -> None:
    """Write a text to every TensorBoard logger of the run."""
    for logger in pl_module.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, markdown, pl_module.global_step)


def markdown_table(columns: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; line breaks and bars inside cells are made harmless."""

    def cell(value: Any) -> str:
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        return text.replace("|", "\\|").replace("\n", "<br>")

    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell(c) for c in line) + " |" for line in lines)
