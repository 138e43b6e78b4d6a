"""Values that are computed from sums over items, and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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


def mean_of(field: str, name: str = "") -> Metric:
    """The mean of a field of the outcomes, over those that have it."""

    def parts(outcome: dict[str, Any]) -> Sequence[float] | None:
        value = outcome.get(field)
        return None if value is None else (float(value), 1.0)

    return Metric(name or field, parts)


def estimate(metric: Metric, outcomes: Sequence[dict[str, Any]], seed: int) -> Estimate | None:
    """A metric's value, and its percentile-bootstrap interval over items; None where it concerns no item.

    >>> estimate(mean_of("right"), [{"right": 1}, {"right": 0}, {"right": None}], seed=0)
    Estimate(mean=0.5, low=0.0, high=1.0, n=2)
    """
    parts = [p for outcome in outcomes if (p := metric.parts(outcome)) is not None]
    if not parts:
        return None
    table = np.asarray(parts, dtype=float)
    random = np.random.default_rng(seed)
    count = len(table)
    sums = np.empty((RESAMPLES, table.shape[1]))
    for i in range(RESAMPLES):  # one at a time: all indices at once would be gigabytes for a large task
        sums[i] = np.bincount(random.integers(count, size=count), minlength=count) @ table
    with np.errstate(divide="ignore", invalid="ignore"):  # a sample without anything to divide by
        values = metric.score(sums)
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(float(metric.score(table.sum(0, keepdims=True))[0]), float(low), float(high), count)
