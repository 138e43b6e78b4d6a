"""ModelCheckpoint whose files are written at safe points only."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from rlhf_lightning.fitting.checkpoint_files import copy_checkpoint, newest_intact, remove_partial
from rlhf_lightning.fitting.logs import flush_loggers


class StageCheckpoint(ModelCheckpoint):
    """Decides as ModelCheckpoint does, but writes after the step or epoch is logged and counted.

    A run that is killed then never has a checkpoint that is ahead of its logs. The checkpoint before the newest is
    kept too, in case the newest cannot be read.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        save_last: bool = True,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        train_time_interval: timedelta | None = None,
        save_on_train_epoch_end: bool | None = None,
        max_minutes: float | None = 15.0,
    ) -> None:
        """
        Args:
            dirpath: Directory; by default `lightning/` in the run directory.
            filename: Name with metrics in braces.
            monitor: Metric that ranks checkpoints; by default the newest is kept.
            mode: Whether a smaller or larger metric is better.
            save_top_k: How many of the best are kept.
            save_last: Keep the newest as `last.ckpt` too.
            every_n_train_steps: Write every so many optimizer steps.
            every_n_epochs: Write every so many epochs (PPO: iterations); the default, with 1.
            train_time_interval: Write at such intervals, in place of the two above.
            save_on_train_epoch_end: Decide at an epoch's end rather than after validation.
            max_minutes: Write `last.ckpt` besides when the newest checkpoint is older; null for never.
        """
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=save_last,
            every_n_train_steps=every_n_train_steps,
            every_n_epochs=every_n_epochs,
            train_time_interval=train_time_interval,
            save_on_train_epoch_end=save_on_train_epoch_end,
            enable_version_counter=False,
        )
        self.max_minutes = max_minutes
        self._due: list[Callable[[], None]] = []
        self._written: tuple[Path, tuple[int, int]] | None = None
        self._written_at = time.monotonic()
        self._spare = ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir).absolute() / "lightning")
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._written_at = time.monotonic()
        if trainer.is_global_zero:
            remove_partial(Path(str(self.dirpath)))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: the last safe point has written what there is to write."""

    @property
    def newest(self) -> Path | None:
        """The checkpoint that was written last by this process."""
        return self._written[0] if self._written else None

    # -- what ModelCheckpoint decides, kept for the next safe point -----------------------------------------

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        self._due.append(lambda: self._write(trainer, Path(filepath)))

    def _remove_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if self.monitor is None:  # one generation later than ModelCheckpoint would
            filepath, self._spare = self._spare, filepath
            if not filepath:
                return
        self._due.append(lambda: self._remove(trainer, filepath))

    # -- writing --------------------------------------------------------------------------------------------

    def at_safe_point(self, trainer: L.Trainer) -> None:
        """Write and remove, in the order that was decided."""
        due, self._due = self._due, []
        for act in due:
            act()
        if self._overdue(trainer):
            self.write_last(trainer)

    def write_last(self, trainer: L.Trainer) -> Path:
        """Write `last.ckpt` now, unless the newest checkpoint stands here already."""
        path = Path(str(self.dirpath)) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
        self._write(trainer, path)
        self.last_model_path = str(path)
        return path

    def _write(self, trainer: L.Trainer, path: Path) -> None:
        flush_loggers(trainer)
        epochs: Any = trainer.fit_loop.epoch_progress.current
        stands = (epochs.processed, trainer.global_step)
        if self._written is None or self._written[1] != stands:
            trainer.save_checkpoint(path)
        elif trainer.is_global_zero and self._written[0] != path:
            copy_checkpoint(self._written[0], path)
        trainer.strategy.barrier()
        self._written, self._written_at = (path, stands), time.monotonic()

    def _remove(self, trainer: L.Trainer, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        if self._written is not None and self._written[0] == Path(filepath):
            self._written = None

    def _overdue(self, trainer: L.Trainer) -> bool:
        if self.max_minutes is None or is_fast_dev_run(trainer):
            return False
        overdue = time.monotonic() - self._written_at > 60 * self.max_minutes
        return bool(trainer.strategy.broadcast(overdue))

    # -- reading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"spare": self._spare}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict["dirpath"] == self.dirpath:
            self._spare = state_dict["spare"]

    def _find_last_checkpoints(self, trainer: L.Trainer) -> set[str]:
        """What `ckpt_path="last"` means: the newest that can be read."""
        directory = Path(str(self.dirpath or Path(trainer.default_root_dir).absolute() / "lightning"))
        found = newest_intact(directory)
        return {str(found)} if found else set()


def is_fast_dev_run(trainer: Any) -> bool:
    """Whether this is Lightning's trial of a few batches, which writes nothing."""
    return bool(trainer.fast_dev_run)
