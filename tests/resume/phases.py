"""Tells from outside what a run is doing: counters in shared memory, set by wrapped methods."""

from __future__ import annotations

import functools
import mmap
import struct
import time
from collections.abc import Callable
from typing import Any

PHASES = ("rollout", "scoring", "update", "validation", "checkpoint", "artefact")
_SIZE = 8 * (1 + 2 * len(PHASES))


class PhaseBoard:
    """For every phase how often it was entered and for how long, and which is running. Shared with forked children."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def clear(self) -> None:
        self._memory[:] = bytes(_SIZE)

    def count(self, phase: str) -> int:
        """How often the phase was entered."""
        return self._get(1 + PHASES.index(phase))

    def seconds(self, phase: str) -> float:
        """Time spent in the phase."""
        return self._get(1 + len(PHASES) + PHASES.index(phase)) * 1e-9

    @property
    def running(self) -> str:
        """The innermost phase, or "between"."""
        number = self._get(0)
        return PHASES[number - 1] if number else "between"

    def _get(self, slot: int) -> int:
        value: int = struct.unpack_from("q", self._memory, 8 * slot)[0]
        return value

    def _set(self, slot: int, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * slot, value)

    def watch(self, owner: Any, method: str, phase: str) -> None:
        """Count the calls of a method as a phase."""
        inner: Callable[..., Any] = getattr(owner, method)
        slot = 1 + PHASES.index(phase)

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            before, start = self._get(0), time.monotonic_ns()
            self._set(0, slot)
            self._set(slot, self._get(slot) + 1)
            try:
                return inner(*args, **kwargs)
            finally:
                self._set(0, before)
                self._set(slot + len(PHASES), self._get(slot + len(PHASES)) + time.monotonic_ns() - start)

        setattr(owner, method, counted)


def watch_all(board: PhaseBoard) -> None:
    """Wrap the methods of a run; only ever called in a process that is thrown away."""
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

    from rlhf_lightning.fitting.checkpoint_files import AtomicCheckpointIO
    from rlhf_lightning.fitting.loops import StageEpochLoop
    from rlhf_lightning.ppo.module import PPOModule
    from rlhf_lightning.stage import StageModule

    board.watch(PPOModule, "sample", "rollout")
    board.watch(PPOModule, "score", "scoring")
    board.watch(StageEpochLoop, "advance", "update")
    board.watch(_EvaluationLoop, "run", "validation")
    board.watch(AtomicCheckpointIO, "save_checkpoint", "checkpoint")
    board.watch(StageModule, "write_artefact", "artefact")
