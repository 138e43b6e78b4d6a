"""Tests and intervals for shares of pairs, with `pair_accuracy`'s errors clustered by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.evaluation.intervals import Interval, t_quantile
from rlhf_lightning.evaluation.trust.pairs import Integers
from rlhf_lightning.pair_accuracy import Estimate, PairCounts, combination

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A weighted share of pairs, 0 to 1, or a difference of two."""

    value: float
    error: float
    """Standard error."""
    pairs: int
    prompts: int
    bounded: bool = True
    """It lies between 0 and 1, and so does its interval; false for a difference."""

    @property
    def interval(self) -> Interval:
        """95 %, by Student's t with one degree of freedom less than there are prompts."""
        z = t_quantile(max(self.prompts - 1, 1), CONFIDENCE)
        low, high = self.value - z * self.error, self.value + z * self.error
        return Interval(self.value, max(low, 0.0), min(high, 1.0)) if self.bounded else Interval(self.value, low, high)

    def p_below(self, value: float = 0.0) -> float:
        """One-sided p-value of the hypothesis that the true number is not below `value`."""
        if self.error == 0:
            return 0.0 if self.value < value else 1.0
        return NormalDist().cdf(student_to_normal((self.value - value) / self.error, self.prompts - 1))

    def p_above(self, value: float = 0.0) -> float:
        """One-sided p-value of the hypothesis that the true number is not above `value`."""
        return replace(self, value=-self.value).p_below(-value)


def tally(hits: NDArray[np.generic], prompt: Integers) -> PairCounts:
    """Counts of each prompt that occurs.

    Args:
        hits: How many of its cases count, bool or a whole number, [N].
        prompt: [N].
    """
    return tally_of(hits, np.ones(len(prompt)), prompt)


def tally_of(hits: NDArray[np.generic], cases: NDArray[np.generic], prompt: Integers) -> PairCounts:
    """The same where each entry stands for several cases, [N]."""
    part, total = (np.bincount(prompt, weights=np.asarray(x, dtype=float)).astype(np.int64) for x in (hits, cases))
    used = np.flatnonzero(total)
    return PairCounts(part[used], total[used], used)


def together(counts: Sequence[PairCounts]) -> PairCounts:
    """Counts of several as one; none of none."""
    if not counts:
        empty = np.zeros(0, dtype=np.int64)
        return PairCounts(empty, empty, empty)
    return PairCounts(*(np.concatenate([getattr(c, name) for c in counts]) for name in ("right", "pairs", "prompt")))


def share(counts: PairCounts) -> Share | None:
    """The share; None of nothing. One of 0 or 1 has the error of one prompt more that is halfway."""
    if not len(counts.pairs):
        return None
    one = combination([(1.0, counts)])
    return Share(one.value, max(one.error or 0.0, _floor(one)), one.pairs, one.prompts)


def share_of_some(counts: PairCounts) -> Share:
    """The same of counts that are known to hold pairs."""
    one = share(counts)
    assert one is not None
    return one


def difference(ours: PairCounts, theirs: PairCounts) -> Share:
    """One share minus another; both must have pairs, and prompts may be in both.

    Its prompts are the fewer of the two, which makes the test of a small group against a large rest a careful one.
    """
    both = combination([(1.0, ours), (-1.0, theirs)])
    alone = combination([(1.0, ours)])
    prompts = min(alone.prompts, len(np.unique(theirs.prompt)))
    error = float(np.hypot(both.error or 0.0, _floor(alone)))
    return Share(both.value, error, alone.pairs, prompts, bounded=False)


def _floor(one: Estimate) -> float:
    if 0 < one.value < 1:
        return 0.0
    p = 0.5 / (one.prompts + 1)
    return math.sqrt(p * (1 - p) / one.prompts)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values (Benjamini and Hochberg 1995): rejecting those up to q keeps the false discovery rate at q.

    >>> [round(x, 3) for x in benjamini_hochberg([0.01, 0.04, 0.03, 0.2])]
    [0.04, 0.053, 0.053, 0.2]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, least = [1.0] * len(p), 1.0
    for rank in range(len(p), 0, -1):
        i = order[rank - 1]
        least = min(least, p[i] * len(p) / rank)
        adjusted[i] = least
    return adjusted


def student_to_normal(t: float, degrees: int) -> float:
    """The normal deviate with Student t's tail probability (Wallace 1959, good to 0.02 from 3 degrees on)."""
    d = max(degrees, 1)
    z = math.sqrt(d * math.log1p(t * t / d)) * (8 * d + 1) / (8 * d + 3)
    return math.copysign(z, t)
