"""Means and rates with confidence intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], seed: int = 0, confidence: float = 0.95, resamples: int = 4000) -> Interval:
    """Mean and percentile-bootstrap interval; each value must be one independent unit (a prompt, not a sample).

    Args:
        values: One number per unit; at least one.
        seed: Seed of the resampling.
        confidence: Coverage, in (0, 1).
        resamples: Bootstrap samples.
    """
    x = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    means = x[draws].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(x.mean()), float(low), float(high))


def rate_interval(outcomes: Sequence[float], confidence: float = 0.95) -> Interval:
    """A rate, such as a win rate, with its interval over prompts.

    Agresti and Coull's interval (1998) for outcomes that may be fractions (ties, means over a prompt's samples): z²/2
    wins and as many losses are added, and the normal interval around the mean of all has the variance that they have
    together; Student's t in place of the normal for few prompts. The percentile bootstrap is not used because it is
    too short at rates near 0 or 1 (it has no width at all after 50 wins of 50): `benchmarks/evaluation/coverage.md`.

    Args:
        outcomes: Of each prompt, from 0 (all lost) to 1 (all won), the mean over its samples; at least one.
        confidence: Coverage, in (0, 1).

    >>> print(rate_interval([1.0] * 50))
    1.000 [0.914, 1.000]
    """
    x = np.asarray(outcomes, dtype=float)
    added = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    total = len(x) + added
    center = (x.sum() + added / 2) / total
    spread = ((x - center) ** 2).sum() + added / 2 * ((1 - center) ** 2 + center**2)
    half = t_quantile(len(x) - 1, confidence) * math.sqrt(spread) / total
    return Interval(float(x.mean()), float(max(0.0, center - half)), float(min(1.0, center + half)))


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """How many standard errors an interval reaches to either side, by Student's t.

    Args:
        freedom: Degrees of freedom; below 1 it reaches to infinity.
        confidence: Coverage, in (0, 1).

    >>> [round(t_quantile(n), 2) for n in (1, 2, 5, 10, 100)]
    [12.71, 4.3, 2.57, 2.23, 1.98]
    """
    if freedom < 1:
        return math.inf
    if freedom == 1:
        return math.tan(math.pi * confidence / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / (1 - confidence**2))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    # Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.5).
    terms = [
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    ]
    return z + float(sum(term / freedom ** (i + 1) for i, term in enumerate(terms)))
