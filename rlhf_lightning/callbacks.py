"""Callbacks that every stage brings along."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sized
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.run_lock import RunLock
from rlhf_lightning.fitting.run_state import all_processes
from rlhf_lightning.whole_files import write_whole

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
                print(f"An earlier run's {left} is kept as {replaced(left).name} until this run has finished.")


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


class WritePredictions(Callback):
    """Writes what `predict` finds as JSON lines, `predictions.jsonl` in the run directory, in the order of the data."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def on_predict_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._rows = []

    def on_predict_batch_end(self, trainer: Any, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        if isinstance(outputs, list) and all(isinstance(row, dict) for row in outputs):
            self._rows += outputs

    def on_predict_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        # Processes take rows in turn (`StageDataModule`), and may have one less than the first.
        rows = [row for turn in zip_longest(*all_processes(self._rows)) for row in turn if row is not None]
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        if isinstance(dataset, Sized) and len(dataset) < trainer.world_size:
            del rows[len(dataset) :]  # repeated, so that each process has one
        if trainer.is_global_zero and rows and not trainer.fast_dev_run:
            file = Path(trainer.default_root_dir) / "predictions.jsonl"
            write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            print(f"{len(rows)} predictions: {file}")


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
