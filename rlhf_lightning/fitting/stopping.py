"""Stopping on request: SIGTERM from a scheduler, Ctrl-C, or an error, without losing a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.guard import NonFiniteError
from rlhf_lightning.fitting.loops import StageFitLoop
from rlhf_lightning.fitting.stage_checkpoint import StageCheckpoint, is_fast_dev_run

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(Exception):
    """The run was told to stop, and stopped."""

    def __init__(self, signum: int, saved: str) -> None:
        super().__init__(f"Stopped by {signal.Signals(signum).name}. {saved}")
        self.status = 128 + signum


class StopOnRequest(Callback):
    """Ends the run at the next safe point after a signal, with a checkpoint; a second signal ends it at once.

    Long phases (rollout, scoring, validation) ask `check` between their parts and are given up: nothing they did
    is in the weights, so a resumed run repeats them.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        # Python allows handlers in the main thread alone.
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._on_signal) for s in SIGNALS}

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            self._restore()
            print("\nStopped at once; `--ckpt_path last` goes on from the last checkpoint.", flush=True)
            raise KeyboardInterrupt
        self.signum = signum
        name = signal.Signals(signum).name
        print(f"\n{name}: stopping after this step. Again to stop at once, with the last checkpoint.", flush=True)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def check(self, trainer: L.Trainer) -> None:
        """Give up the current phase if told to; only with one process, for others could not know.

        Raises:
            RunStopped: A signal came.
        """
        if self.signum is not None and trainer.world_size == 1:
            raise RunStopped(self.signum, self._saved(trainer))

    def at_safe_point(self, trainer: L.Trainer) -> None:
        """
        Raises:
            RunStopped: Any process got a signal.
        """
        if trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False):
            raise RunStopped(self.signum or signal.SIGTERM, self._saved(trainer))

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            self.check(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keep what an error would lose, if the weights are whole."""
        if isinstance(exception, NonFiniteError):
            newest = [c.newest for c in trainer.checkpoint_callbacks if isinstance(c, StageCheckpoint) and c.newest]
            print(f"The last good checkpoint is {newest[0]}." if newest else "No checkpoint was written before.")
        loop = trainer.fit_loop
        saved_or_not_wanted = isinstance(exception, RunStopped | KeyboardInterrupt | NonFiniteError)
        if (
            saved_or_not_wanted
            or trainer.world_size > 1
            or trainer.state.fn != "fit"
            or not isinstance(loop, StageFitLoop)
        ):
            return
        if not loop.in_optimizer_step and trainer.global_step > 0:
            with contextlib.suppress(UserError):  # the disk may be what failed
                if saved := self._save(trainer):
                    print(f"The run failed at step {trainer.global_step}; its state is in {saved}.", flush=True)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()

    def _saved(self, trainer: L.Trainer) -> str:
        """Save the run, and say where, or why not."""
        if _just_resumed(trainer):
            return f"Nothing was done since {trainer.ckpt_path} was read. Start the same command again."
        if checkpoint := self._save(trainer):
            return f"The checkpoint is {checkpoint}. Start the same command with `--ckpt_path last` to go on."
        if trainer.global_step == 0:
            return "No step was made yet, so no checkpoint was written. Start the same command again."
        return f"No checkpoint was written of its {trainer.global_step} steps, as the trainer has no StageCheckpoint."

    def _save(self, trainer: L.Trainer) -> str | None:
        if is_fast_dev_run(trainer) or trainer.global_step == 0 or _just_resumed(trainer):
            return None
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, StageCheckpoint):
                return str(callback.write_last(trainer))
        return None


def _just_resumed(trainer: L.Trainer) -> bool:
    """Nothing was done since a checkpoint was read: another one would say less, and may stand beside newer ones."""
    loop = trainer.fit_loop
    return isinstance(loop, StageFitLoop) and loop.stage_epoch_loop.resumed is not None
