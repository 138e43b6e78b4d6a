"""Means with bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def win_rate(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Interval:
    """How often our number is the higher one, ties counting half; pairs are by position.

    >>> win_rate([1.0, 1.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.5]).mean
    0.625
    """
    outcomes = [0.5 if a == b else float(a > b) for a, b in zip(ours, theirs, strict=True)]
    return mean_interval(outcomes, seed)


def win_rate_interval(outcomes: Sequence[float], confidence: float = 0.95) -> Interval:
    """A win rate with its interval over prompts.

    Args:
        outcomes: Of each prompt, from 0 (all lost) to 1 (all won), the mean over its samples; at least one.
        confidence: Coverage, in (0, 1).
    """
    return mean_interval(outcomes, confidence=confidence)
