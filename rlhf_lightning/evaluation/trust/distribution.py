"""Whether a policy's outputs lie where the reward model was trained: outside, its scores are guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlhf_lightning.evaluation.trust.clustered import Share, share_of_some, tally
from rlhf_lightning.evaluation.trust.pairs import Floats, Integers

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
ALARM_ABOVE_MOST = 0.05
"""Alarm: more than this share above the training responses' 99 % quantile, of which 1 % would be expected ..."""
ALARM_ABOVE_ALL = 0.01
"""... or more than this share above all training responses; by the lower end of the 95 % interval in both cases."""


@dataclass(frozen=True)
class Shift:
    """One number (score or length) of a policy's outputs beside the same of the training responses."""

    policy: str
    of: Literal["score", "length"]
    ks: float
    """Kolmogorov-Smirnov statistic: the largest distance between the two distribution functions, 0 to 1."""
    ks_by_chance: float
    """What 5 % of samples from one distribution exceed, if the prompts (not the outputs) are independent."""
    above_most: Share
    """Share of outputs above the 99 % quantile of the training responses."""
    above_all: Share
    """Share above their maximum."""
    quantiles: dict[str, tuple[float, float]]
    """Of training responses and of outputs, by percent."""
    alarm: bool


def shift(policy: str, of: Literal["score", "length"], training: Floats, outputs: Floats, prompt: Integers) -> Shift:
    """Compare distributions.

    Args:
        policy: Its name.
        of: What the numbers are.
        training: Of the responses that the reward model was trained on, [M].
        outputs: Of the policy's outputs, [N].
        prompt: What each output answers, numbered from 0, [N].
    """
    most, highest = np.quantile(training, 0.99), training.max()
    above_most, above_all = (share_of_some(tally(outputs > limit, prompt)) for limit in (most, highest))
    alarm = above_most.interval.low > ALARM_ABOVE_MOST or above_all.interval.low > ALARM_ABOVE_ALL
    units = len(np.unique(prompt))
    chance = 1.358 * float(np.sqrt(1 / units + 1 / len(training)))
    both = [np.quantile(values, QUANTILES) for values in (training, outputs)]
    quantiles = {f"{100 * q:g} %": (float(a), float(b)) for q, a, b in zip(QUANTILES, *both, strict=True)}
    statistic = kolmogorov_smirnov(training, outputs)
    return Shift(policy, of, statistic, chance, above_most, above_all, quantiles, alarm)


def kolmogorov_smirnov(a: Floats, b: Floats) -> float:
    """The two-sample statistic, 0 to 1.

    >>> kolmogorov_smirnov(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0]))
    0.5
    """
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())
