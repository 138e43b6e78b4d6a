"""Callbacks that every stage brings along."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from rlhf_lightning.stage import StageModule


class RunDirectory(Callback):
    """Checks before any work that the run directory can be written."""

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:
            return
        check_writable(Path(trainer.default_root_dir))


def check_writable(root: Path) -> None:
    """Make the run directory if it is not there, and try to write in it.

    Raises:
        UserError: It cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UserError(
            f"trainer.default_root_dir: cannot write to {str(root)!r}: {error.strerror}. Choose another directory."
        ) from error


class WriteArtefact(Callback):
    """Writes `final/` when training has come to its end (not when it was interrupted)."""

    def on_train_end(self, trainer: Any, pl_module: StageModule) -> None:  # type: ignore[override]
        if trainer.fast_dev_run or trainer.interrupted:
            return
        pl_module.before_artefact()
        if trainer.is_global_zero:
            pl_module.write_artefact(Path(trainer.default_root_dir) / "final")
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
