"""Logs that survive a kill."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger


def flush_loggers(trainer: L.Trainer) -> None:
    """Hand what was logged to the operating system; TensorBoard keeps it in memory for up to two minutes."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
