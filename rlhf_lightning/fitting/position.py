"""Where a run stands. Lightning's counters are written from this, never trusted after a checkpoint was read.

A checkpoint may be written inside any hook, and stock Lightning then counts a batch, an epoch or a validation
twice or not at all, depending on the hook. The position says what has been done; the loops do the rest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Position:
    """Everything up to here is in the weights."""

    epoch: int
    """Epochs (PPO: iterations) that have ended."""
    batches: int
    """Batches of the current epoch whose optimizer step has been made; 0 at an epoch's start."""
    num_batches: int
    """Batches of an epoch."""
    total_batches: int
    """Batches of all epochs."""
    steps: int
    """Optimizer steps (skipped ones included)."""
    step_ended: bool
    """Whether validation and logging after the last of `batches` are done too."""
    validated: bool
    """Whether the validation after the last of `batches` is done, where one is due."""
    should_stop: bool
    """Whether a callback, such as EarlyStopping, has asked to end the run."""
    cut_short: bool = False
    """Whether the run ended within the last of `epoch`, as at `trainer.max_steps`."""

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)


def whole_steps(batches: int, num_batches: int, accumulate: int) -> int:
    """Batches that are in the weights: gradients that still wait for their optimizer step are not in a checkpoint.

    Args:
        batches: Batches of the epoch that went through forward and backward.
        num_batches: Batches of an epoch; its last step may have fewer than `accumulate`.
        accumulate: Batches of an optimizer step.

    >>> whole_steps(5, 10, 2), whole_steps(9, 9, 2)
    (4, 9)
    """
    return batches if batches == num_batches else batches - batches % accumulate
