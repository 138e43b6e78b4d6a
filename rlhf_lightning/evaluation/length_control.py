"""Win rates as they would be if both models wrote equally much (arXiv 2404.04475).

As in AlpacaEval 2, a logistic regression explains outcomes by a constant, the model's advantage, and by the difference
of lengths, z = tanh((l_a − l_b) / std(l_a − l_b)); the win rate at z = 0 is σ of the constant. Lengths are in
characters. AlpacaEval's third term, how hard an instruction is, is estimated from many models on its own 805
instructions and has no counterpart on prompts of the user's, so it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.evaluation.comparing import Outcome
from rlhf_lightning.evaluation.intervals import t_quantile
from rlhf_lightning.evaluation.ratings import PRIOR_WINS

Array = NDArray[np.float64]

SLOPE_SPREAD = 5.0
"""Standard deviation of the normal prior on the length's coefficient, which only matters where every longer (or every
shorter) response wins."""
PRIOR = np.diag([0.0, SLOPE_SPREAD**-2])
ADDED = 2 * PRIOR_WINS
"""Comparisons added at z = 0, half of them won."""


def length_controlled(outcomes: Sequence[Outcome], confidence: float = 0.95) -> dict[str, Any] | None:
    """The length-controlled win rate with its interval over prompts; None without comparisons.

    The interval is σ of the constant's, whose standard error is the sandwich estimator's with a cluster for each
    prompt, as for ratings.

    Args:
        outcomes: Of a model against the baseline.
        confidence: Coverage, in (0, 1).

    Returns:
        `mean`, `low`, `high`, and `length_effect`, the coefficient of z.
    """
    counted = [o for o in outcomes if o.value is not None]
    if not counted:
        return None
    y = np.array([o.value for o in counted], dtype=float)
    z = length_term(np.array([o.length_difference for o in counted], dtype=float))
    ids = {name: i for i, name in enumerate(sorted({o.id for o in counted}))}
    prompt = np.array([ids[o.id] for o in counted])
    weights = 1 / np.bincount(prompt)[prompt]
    beta = fit(y, z, weights)
    half = t_quantile(len(ids) - 1, confidence) * _error_of_constant(y, z, weights, prompt, beta)
    low, mean, high = (_sigmoid(np.array(beta[0] + shift)) for shift in (-half, 0.0, half))
    return {"mean": float(mean), "low": float(low), "high": float(high), "length_effect": float(beta[1])}


def length_term(differences: Array) -> Array:
    """tanh of differences in units of their standard deviation; 0 where all are equal."""
    spread = float(differences.std())
    return np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)


def fit(y: Array, z: Array, weights: Array, steps: int = 50) -> Array:
    """Weighted logistic regression of outcomes on a constant and z, [2], by Newton's method.

    Half a win and half a loss at z = 0 are added, as for ratings, and a wide prior on the coefficient of z.

    Args:
        y: [N] outcomes in [0, 1].
        z: [N] length terms.
        weights: [N].
        steps: Newton's, at most.
    """
    x = np.stack([np.ones_like(z), z], axis=1)
    beta = np.zeros(2)
    for _ in range(steps):
        p = _sigmoid(x @ beta)
        gradient = x.T @ (weights * (y - p)) - PRIOR @ beta
        gradient[0] += ADDED * (0.5 - _sigmoid(beta[0]))
        step = np.linalg.solve(_curvature(x, weights, beta), gradient)
        beta = beta + np.clip(step, -2, 2)  # far from the solution a full step overshoots
        if np.abs(step).max() < 1e-10:
            break
    return beta


def _curvature(x: Array, weights: Array, beta: Array) -> Array:
    p, at_zero = _sigmoid(x @ beta), _sigmoid(beta[0])
    added = np.diag([ADDED * at_zero * (1 - at_zero), 0.0])
    return np.asarray((x * (weights * p * (1 - p))[:, None]).T @ x + added + PRIOR)


def _error_of_constant(y: Array, z: Array, weights: Array, prompt: NDArray[np.int64], beta: Array) -> float:
    """Standard error of the constant; infinite for a single prompt."""
    x = np.stack([np.ones_like(z), z], axis=1)
    n = int(prompt.max()) + 1
    if n < 2:
        return math.inf
    scores = np.zeros((n, 2))
    np.add.at(scores, prompt, x * (weights * (y - _sigmoid(x @ beta)))[:, None])
    inverse = np.linalg.inv(_curvature(x, weights, beta))
    at_zero = _sigmoid(beta[0])
    noise = scores.T @ scores * n / (n - 1) + np.diag([ADDED * at_zero * (1 - at_zero), 0.0])
    return float(np.sqrt((inverse @ noise @ inverse)[0, 0]))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))
