"""Whether sigma(r_i - r_j) is the probability with which a labeler prefers i."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_lightning.evaluation.trust.pairs import Floats, Integers

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose stated probability lies in [low, high)."""

    low: float
    high: float
    pairs: int
    confidence: float
    """Mean stated probability."""
    accuracy: float
    """Share of them that the labelers saw as stated."""
    error: float
    """Standard error of the accuracy, clustered by prompt."""


@dataclass(frozen=True)
class Calibration:
    """How probabilities and preferences go together."""

    ece: float
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599), 0 to 1, over both orders of each pair."""
    temperature: float
    """Divides the margins so that they are calibrated best; above 1: the model is too sure of itself."""
    temperature_low: float
    temperature_high: float
    """95 % interval, errors clustered by prompt."""
    loss: float
    """Mean of -log sigma(margin), nats; log 2 = 0.693 is what no opinion costs."""
    loss_calibrated: float
    """The same after dividing by the temperature."""
    curve: list[ReliabilityBin]


def calibrate(margin: Floats, prompt: Integers, bins: int = BINS) -> Calibration:
    """Calibration of pairs.

    Args:
        margin: Score of the preferred response minus the other's, [N].
        prompt: Cluster of each pair, [N].
        bins: Of equal width.
    """
    temperature, low, high = fit_temperature(margin, prompt)
    loss = float(np.logaddexp(0, -margin).mean())
    calibrated = float(np.logaddexp(0, -margin / temperature).mean())
    curve = reliability(margin, prompt, bins)
    return Calibration(expected_error(curve), temperature, low, high, loss, calibrated, curve)


def reliability(margin: Floats, prompt: Integers, bins: int = BINS) -> list[ReliabilityBin]:
    """The reliability curve, bins without pairs left out.

    Both orders of a pair count, as in validation's `val/ece`: with the preferred one always first there would be
    nothing to calibrate. A pair counts once in `pairs` of either side.
    """
    stated = 1 / (1 + np.exp(-np.clip(np.concatenate([margin, -margin]), -500, 500)))
    came_true = np.concatenate([np.ones(len(margin)), np.zeros(len(margin))])
    cluster = np.concatenate([prompt, prompt])
    number = np.clip((stated * bins).astype(int), 0, bins - 1)
    curve = []
    for i in range(bins):
        if not (mine := number == i).any():
            continue
        accuracy = came_true[mine].mean()
        sums = np.bincount(cluster[mine], weights=came_true[mine] - accuracy)
        error = float(np.sqrt((sums**2).sum()) / mine.sum())
        confidence = float(stated[mine].mean())
        curve.append(ReliabilityBin(i / bins, (i + 1) / bins, int(mine.sum()), confidence, float(accuracy), error))
    return curve


def expected_error(curve: list[ReliabilityBin]) -> float:
    """Mean distance between stated probability and frequency, weighted by pairs."""
    total = sum(b.pairs for b in curve)
    return sum(b.pairs * abs(b.confidence - b.accuracy) for b in curve) / total


def fit_temperature(margin: Floats, prompt: Integers) -> tuple[float, float, float]:
    """The temperature that minimises the loss of margin / temperature, and its 95 % interval.

    The loss is convex in b = 1 / temperature and is solved by bisection of its slope; the interval is b's, from the
    sandwich estimator with clusters. A model that is right less often than wrong has no temperature: infinity.
    """

    def slope(b: float) -> float:
        return float(-(margin / (1 + np.exp(np.clip(b * margin, -500, 500)))).mean())

    if not margin.any() or slope(0.0) >= 0:
        return float("inf"), 0.0, float("inf")
    low, high = 0.0, 1.0
    while slope(high) < 0 and high < 1e6:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    b = (low + high) / 2
    wrong = 1 / (1 + np.exp(np.clip(b * margin, -500, 500)))
    curvature = float((margin**2 * wrong * (1 - wrong)).sum())
    scores = np.bincount(prompt, weights=-margin * wrong)
    error = 1.96 * float(np.sqrt((scores**2).sum())) / max(curvature, 1e-12)
    return 1 / b, 1 / (b + error), 1 / (b - error) if b > error else float("inf")
