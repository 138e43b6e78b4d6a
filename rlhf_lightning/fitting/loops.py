"""Fit loop and epoch loop of every stage. With `ppo/loop.py` the only place that touches Lightning's private loops.

Two differences from stock: a resumed run goes on exactly at its `Position`, whatever hook wrote the checkpoint;
and after each step and each epoch, when everything is logged, there is a safe point, where checkpoints are written
and a run that was told to stop stops.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.position import Position, whole_steps


class StageEpochLoop(_TrainingEpochLoop):
    """Runs the batches of one epoch, from wherever a resumed run stands."""

    def __init__(self, trainer: L.Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.entered = False
        """Whether the batch counter belongs to the current epoch."""
        self.ended = self.validated = 0
        """Batches of the epoch after which validation and logging, or validation alone, are done."""
        self.resumed: Position | None = None
        """Where the run is to go on, until it does."""

    @property
    def _progress(self) -> Any:
        return self.batch_progress.current

    def run(self, data_fetcher: Any) -> None:
        self.reset()
        self.on_run_start(data_fetcher)
        self._make_up(data_fetcher)
        while not self.done:
            try:
                self.advance(data_fetcher)
                self.on_advance_end(data_fetcher)
            except StopIteration:
                break
            finally:
                self.on_iteration_done()

    def reset(self) -> None:
        super().reset()
        self.entered = True
        self.ended = self.validated = 0
        if self.resumed is not None and self.resumed.batches > 0:
            self._seek(self.resumed)
        self.resumed = None

    def _seek(self, position: Position) -> None:
        fit_loop: Any = self.trainer.fit_loop
        if position.num_batches != fit_loop.max_batches:
            raise UserError(
                f"--ckpt_path: the checkpoint stands at batch {position.batches} of {position.num_batches} of its "
                f"epoch, and an epoch has {fit_loop.max_batches} batches now. Restore data, batch size and "
                "accumulation, or go on from a checkpoint of an epoch's end."
            )
        accumulate = self.trainer.accumulate_grad_batches
        if whole_steps(position.batches, position.num_batches, accumulate) != position.batches:
            raise UserError(
                f"--ckpt_path: the checkpoint stands after {position.batches} batches of its epoch, and no step of "
                f"{accumulate} batches (trainer.accumulate_grad_batches) ends there. Restore it, or go on from a "
                "checkpoint of an epoch's end."
            )
        _set_all(self.batch_progress.current, position.batches)
        self.batch_progress.is_last_batch = position.batches == position.num_batches
        self.ended = position.batches - (not position.step_ended)
        self.validated = position.batches - (not position.validated)

    def on_run_start(self, data_fetcher: Any) -> None:
        trainer: Any = self.trainer
        fit_loop, done = trainer.fit_loop, int(self._progress.ready)
        for loader in fit_loop._combined_loader.flattened:
            if hasattr(loader, "seek"):
                # Overfitting is on the batches of one epoch, again and again.
                loader.seek(0 if trainer.overfit_batches else fit_loop.epoch, done)
            elif done:
                raise UserError("--ckpt_path: this data loader has no seek(), so only an epoch's end can be resumed.")
        iter(data_fetcher)
        data_fetcher.fetched += done
        data_fetcher._start_profiler, data_fetcher._stop_profiler = self._on_before_fetch, self._on_after_fetch

    def _make_up(self, data_fetcher: Any) -> None:
        """What came after the checkpointed step in the run that was cut off."""
        done = int(self._progress.processed)
        if self.ended == done:
            return
        self._skip_next_val = self.validated == done
        self._batches_that_stepped = self.global_step - 1
        self.on_advance_end(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        super().on_advance_end(data_fetcher)
        self.ended = self.validated = int(self._progress.processed)
        if not self._should_accumulate():
            for optimizer in self.trainer.optimizers:  # Lightning would keep gradients beside those of the next step
                optimizer.zero_grad()
            fit_loop: Any = self.trainer.fit_loop
            fit_loop.safe_point()


class StageFitLoop(_FitLoop):
    """Lightning's fit loop with an exact position."""

    def __init__(self, trainer: L.Trainer, min_epochs: int | None, max_epochs: int | None) -> None:
        super().__init__(trainer, min_epochs, max_epochs)
        self.in_optimizer_step = False
        """The optimizer may be writing weights: there is nothing consistent to save."""
        self._cut_short = False

    @classmethod
    def attach(cls, trainer: L.Trainer) -> StageFitLoop:
        """Put the loop in place of the trainer's, keeping its limits and data source."""
        old: Any = trainer.fit_loop
        if type(old) is cls:
            return old
        new = cls(trainer, old.min_epochs, old.max_epochs)
        new.epoch_loop = StageEpochLoop(trainer, old.min_steps, old.max_steps)
        new.epoch_loop.val_loop = old.epoch_loop.val_loop  # it knows its data already
        new._data_source = old._data_source
        trainer.fit_loop = new
        return new

    @property
    def stage_epoch_loop(self) -> StageEpochLoop:
        loop: Any = self.epoch_loop
        return loop  # type: ignore[no-any-return]

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        progress: Any = self.epoch_progress.current
        return int(progress.processed)

    # -- resuming -----------------------------------------------------------------------------------------

    @_Loop.restarting.setter  # type: ignore[attr-defined, untyped-decorator]
    def restarting(self, restarting: bool) -> None:
        """Stock Lightning infers from its counters what was cut off, wrongly in several cases; `Position` knows."""
        _Loop.restarting.fset(self, False)  # type: ignore[attr-defined]

    @property
    def resuming_mid_epoch(self) -> bool:
        resumed = self.stage_epoch_loop.resumed
        return resumed is not None and resumed.batches > 0

    @property
    def done(self) -> bool:
        # A run cut off after its last batch still owes the end of that epoch.
        return not self.resuming_mid_epoch and super().done

    @property
    def skip(self) -> bool:
        nothing_left, resumed = bool(super().skip), self.stage_epoch_loop.resumed
        if resumed is not None and self.trainer.is_global_zero:
            hint = "An earlier checkpoint goes on as if it had not."
            if nothing_left and resumed.should_stop:
                print(f"--ckpt_path: the run had been ended by a callback or trainer.max_time. {hint}")
            elif resumed.cut_short and not nothing_left:
                print(f"--ckpt_path: the run had ended within an epoch, whose other batches are left out. {hint}")
        return nothing_left

    @property
    def position(self) -> Position:
        loop, trainer = self.stage_epoch_loop, self.trainer
        if loop.resumed is not None:  # what fails before the first batch is no step back
            return loop.resumed
        progress: Any = loop.batch_progress
        epochs: Any = self.epoch_progress.current
        in_epoch = loop.entered and epochs.processed == epochs.completed  # else before its first batch, or at its end
        processed = progress.current.processed if in_epoch else 0
        num_batches = int(self.max_batches) if self.max_batches != float("inf") else 0
        batches = whole_steps(processed, num_batches, trainer.accumulate_grad_batches)
        return Position(
            epoch=self.epoch,
            batches=batches,
            num_batches=num_batches,
            total_batches=progress.total.processed - (processed - batches),
            steps=loop.global_step,
            step_ended=batches == 0 or loop.ended >= batches,
            validated=batches == 0 or loop.validated >= batches or self._at_validation_end,
            should_stop=trainer.should_stop,
            cut_short=self._cut_short and batches == 0,
        )

    @property
    def _at_validation_end(self) -> bool:
        """In the hooks after a validation, which has then logged its metrics."""
        progress: Any = self.epoch_loop.val_loop.batch_progress
        done = progress.is_last_batch and progress.current.completed == progress.current.ready
        return bool(self.trainer.validating and done and not self.trainer.interrupted)

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {"position": self.position.state()}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        self._loaded = Position(**state_dict["position"])

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        super().load_state_dict(state_dict, prefix)
        self._restore(self._loaded)

    def _restore(self, position: Position) -> None:
        for counter in (self.epoch_progress.total, self.epoch_progress.current):
            _set_all(counter, position.epoch)
        loop = self.stage_epoch_loop
        _set_all(loop.batch_progress.total, position.total_batches)
        optimizer = loop.automatic_optimization.optim_progress.optimizer
        for progress in (optimizer.step, optimizer.zero_grad):
            _set_all(progress.total, position.steps)
        loop._batches_that_stepped = position.steps
        loop.resumed = position
        self.trainer.should_stop = position.should_stop

    # -- one epoch ----------------------------------------------------------------------------------------

    def on_advance_start(self) -> None:
        self.stage_epoch_loop.entered = self._cut_short = False
        super().on_advance_start()

    def on_advance_end(self) -> None:
        progress: Any = self.epoch_loop.batch_progress
        self._cut_short = progress.current.processed < self.max_batches != float("inf")
        super().on_advance_end()
        self.stage_epoch_loop.entered = False
        self.safe_point()

    def safe_point(self) -> None:
        """Weights, counters and logs agree: write the checkpoints that are due, and stop if told to."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        for callback in reversed(callbacks):  # checkpoints come last in Lightning's list, and first here
            if hasattr(callback, "at_safe_point"):
                callback.at_safe_point(self.trainer)


def _set_all(counter: Any, value: int) -> None:
    for name in vars(counter):
        setattr(counter, name, value)
