"""Whether length stands in for quality: in the reward model, and in the labelers it learnt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_lightning.evaluation.trust.clustered import Share, difference, share, share_of_some, tally
from rlhf_lightning.evaluation.trust.pairs import Floats, Integers, Mask, PairTable


@dataclass(frozen=True)
class LengthBias:
    """Over pairs whose responses differ in length; lengths are in characters."""

    accuracy_longer_preferred: Share | None
    """Of the reward model where labelers prefer the longer response; None without such pairs."""
    accuracy_shorter_preferred: Share | None
    model_longer: Share
    """How often the model scores the longer one higher."""
    labelers_longer: Share
    """How often the labelers prefer it."""
    excess: Share
    """The first minus the second."""
    model_slope: tuple[float, float]
    """Change of the log-odds that the model prefers a response with one standard deviation of gap more; and its error.
    Pairs are within a prompt, which is how the prompt is controlled for."""
    labelers_slope: tuple[float, float]
    """The same for the labelers."""
    score_per_length: tuple[float, float]
    """Partial effect on the margin (score units) of one standard deviation of gap, at equal labelers' preference: from
    margin = a * preference + b * gap by least squares, both orders of each pair; b and its error."""
    gap_deviation: float
    """One standard deviation of the gap, characters."""


def length_bias(table: PairTable) -> LengthBias | None:
    """Length bias; None where all pairs are of equal length or equal score."""
    pairs = table.where((table.gap != 0) & (table.margin != 0))
    if not len(pairs):
        return None
    longer = pairs.gap > 0
    model = tally(pairs.right == longer, pairs.prompt)
    labelers = tally(longer, pairs.prompt)
    deviation = float(np.sqrt((pairs.gap**2).mean()))
    gap = pairs.gap / deviation
    return LengthBias(
        accuracy_longer_preferred=_accuracy(pairs, longer),
        accuracy_shorter_preferred=_accuracy(pairs, ~longer),
        model_longer=share_of_some(model),
        labelers_longer=share_of_some(labelers),
        excess=difference(model, labelers),
        model_slope=logistic_slope(np.where(pairs.right, gap, -gap), pairs.prompt),
        labelers_slope=logistic_slope(gap, pairs.prompt),
        score_per_length=partial_slope(pairs.margin, gap, pairs.prompt),
        gap_deviation=deviation,
    )


def _accuracy(pairs: PairTable, mask: Mask) -> Share | None:
    return share(tally(pairs.right[mask], pairs.prompt[mask]))


def logistic_slope(gap: Floats, prompt: Integers) -> tuple[float, float]:
    """b of P(the first is preferred) = sigma(b * gap), and its error with clusters; b within 20.

    Args:
        gap: What the preferred response has more of, [N].
        prompt: Cluster of each pair, [N].
    """
    b = 0.0
    for _ in range(50):
        wrong = 1 / (1 + np.exp(np.clip(b * gap, -500, 500)))
        curvature = float((gap**2 * wrong * (1 - wrong)).sum())
        step = float((gap * wrong).sum()) / max(curvature, 1e-9)
        b = float(np.clip(b + np.clip(step, -1, 1), -20, 20))
        if abs(step) < 1e-9:
            break
    wrong = 1 / (1 + np.exp(np.clip(b * gap, -500, 500)))
    curvature = float((gap**2 * wrong * (1 - wrong)).sum())
    sums = np.bincount(prompt, weights=gap * wrong)
    return b, float(np.sqrt((sums**2).sum())) / max(curvature, 1e-9)


def partial_slope(margin: Floats, gap: Floats, prompt: Integers) -> tuple[float, float]:
    """Effect of the gap on the margin at equal preference, and its error with clusters.

    With both orders of each pair an intercept is 0 by symmetry, and one order with the preference as the constant 1 is
    the same fit.
    """
    x = np.stack([np.ones(len(gap)), gap], axis=1)
    inverse = np.linalg.pinv(x.T @ x)
    coefficients = inverse @ (x.T @ margin)
    scores = x * (margin - x @ coefficients)[:, None]
    sums = np.stack([np.bincount(prompt, weights=column) for column in scores.T], axis=1)
    covariance = inverse @ (sums.T @ sums) @ inverse
    return float(coefficients[1]), float(np.sqrt(max(covariance[1, 1], 0.0)))
