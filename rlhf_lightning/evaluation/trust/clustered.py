"""Shares of pairs, with errors clustered by prompt: the pairs of a prompt are not independent of each other.

A share is the ratio of two sums over prompts, and its variance that of its linearisation (Liang and Zeger 1986; Cochran
1977 §6). A difference of shares takes the same prompts' deviations together, so that shares of overlapping prompts,
such as two labelers', are compared rightly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.evaluation.intervals import Interval
from rlhf_lightning.evaluation.trust.pairs import Floats, Integers

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
        z = student_quantile(0.5 + CONFIDENCE / 2, self.prompts - 1)
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


@dataclass(frozen=True)
class Tally:
    """Sums of each prompt, [P]: how much of `total` is `part`."""

    part: Floats
    total: Floats

    @property
    def prompts(self) -> int:
        return int((self.total > 0).sum())

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return float(self.part.sum() / self.total.sum()) if self.total.any() else float("nan")

    def deviations(self) -> Floats:
        """What each prompt adds to the share's error, [P]; their squares sum to its variance."""
        total = self.total.sum()
        spread = (self.part - self.value * self.total) / total
        n = self.prompts
        return np.asarray(spread * math.sqrt(n / (n - 1))) if n > 1 else spread

    def share(self) -> Share:
        """With its error. A share of 0 or 1 has the error of one prompt more that is halfway."""
        error = float(np.sqrt((self.deviations() ** 2).sum()))
        return Share(self.value, max(error, self._floor()), int(self.total.sum()), self.prompts)

    def _floor(self) -> float:
        n = self.prompts
        if not n or 0 < self.value < 1:
            return 0.0
        p = 0.5 / (n + 1)
        return math.sqrt(p * (1 - p) / n)


def tally(hits: NDArray[np.generic], prompt: Integers, num_prompts: int, weights: Floats | None = None) -> Tally:
    """Sums of `hits` (0 to 1, times weights) and of the weights by prompt.

    Args:
        hits: [N].
        prompt: [N], each below `num_prompts`.
        num_prompts: P.
        weights: [N]; 1 each by default.
    """
    w = np.ones(len(prompt)) if weights is None else weights
    return Tally(per_prompt(np.asarray(hits, dtype=float) * w, prompt, num_prompts), per_prompt(w, prompt, num_prompts))


def per_prompt(values: Floats, prompt: Integers, num_prompts: int = 0) -> Floats:
    """Sums by prompt, [at least num_prompts]."""
    return np.bincount(prompt, weights=values, minlength=num_prompts).astype(float)


def difference(ours: Tally, theirs: Tally) -> Share:
    """One share minus another over the same numbering of prompts, which may overlap.

    Its prompts are the fewer of the two, which makes the test of a small group against a large rest a careful one.
    """
    error = float(np.sqrt(((ours.deviations() - theirs.deviations()) ** 2).sum() + ours._floor() ** 2))
    prompts = min(ours.prompts, theirs.prompts)
    return Share(ours.value - theirs.value, error, int(ours.total.sum()), prompts, bounded=False)


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


def student_quantile(p: float, degrees: int) -> float:
    """The inverse of `student_to_normal` at the normal p-quantile."""
    d = max(degrees, 1)
    z = NormalDist().inv_cdf(p) * (8 * d + 3) / (8 * d + 1)
    return math.copysign(math.sqrt(d * math.expm1(z * z / d)), z)
