"""Values that are computed from sums over items, and their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.evaluation.intervals import rate_interval

Sums: TypeAlias = NDArray[np.float64]
"""Sums over items, [..., k]."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A metric over n items, with its 95 % interval; `mean` is its value, of whatever kind."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(sums: Sums) -> Sums:
    """The first sum divided by the last: a mean, if an item's last part is 1."""
    return np.asarray(sums[..., 0] / sums[..., -1])


@dataclass(frozen=True)
class Metric:
    """A number that a task reports, and how it comes from the outcomes of items."""

    name: str
    parts: Callable[[dict[str, Any]], Sequence[float] | None]
    """An item's outcome to the k numbers that are summed over items; None leaves the item out."""
    score: Callable[[Sums], Sums] = ratio
    """Sums [R, k] to values [R]."""
    is_rate: bool = False
    """A mean of numbers in [0, 1], each of one item."""


def mean_of(field: str, name: str = "", is_rate: bool = True) -> Metric:
    """The mean of a field of the outcomes, over those that have it.

    Args:
        field: Of an outcome.
        name: Of the metric; by default the field's.
        is_rate: Its numbers lie between 0 and 1, such as a share, or whether something is so.
    """

    def parts(outcome: dict[str, Any]) -> Sequence[float] | None:
        value = outcome.get(field)
        return None if value is None else (float(value), 1.0)

    return Metric(name or field, parts, is_rate=is_rate)


def estimate(metric: Metric, outcomes: Sequence[dict[str, Any]], seed: int) -> Estimate | None:
    """A metric's value, and its 95 % interval over items; None where it concerns no item.

    Rates have `rate_interval`'s, for the bootstrap has no width where all items came out alike; others have the
    percentile bootstrap's.

    >>> print(estimate(mean_of("right"), [{"right": 1}] * 50 + [{"right": None}], seed=0))
    1.000 [0.914, 1.000]
    """
    parts = [p for outcome in outcomes if (p := metric.parts(outcome)) is not None]
    if not parts:
        return None
    table = np.asarray(parts, dtype=float)
    if metric.is_rate and table[:, 0].min() >= 0 and table[:, 0].max() <= 1:  # a scorer of the user's may give others
        rate = rate_interval(table[:, 0].tolist())
        return Estimate(rate.mean, rate.low, rate.high, len(table))
    random = np.random.default_rng(seed)
    count = len(table)
    sums = np.empty((RESAMPLES, table.shape[1]))
    for i in range(RESAMPLES):  # one at a time: all indices at once would be gigabytes for a large task
        sums[i] = np.bincount(random.integers(count, size=count), minlength=count) @ table
    with np.errstate(divide="ignore", invalid="ignore"):  # a sample without anything to divide by
        values = metric.score(sums)
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(float(metric.score(table.sum(0, keepdims=True))[0]), float(low), float(high), count)
