"""Win rates as they would be if both models wrote equally much (arXiv 2404.04475).

As in AlpacaEval 2, a logistic regression explains outcomes by a constant, the model's advantage, and by the difference
of lengths, z = tanh((l_a − l_b) / std(l_a − l_b)); the win rate at z = 0 is σ of the constant. Lengths are in
characters. AlpacaEval's third term, how hard an instruction is, is estimated from many models on its own 805
instructions and has no counterpart on prompts of the user's, so it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.evaluation.comparing import Outcome

Array = NDArray[np.float64]

SLOPE_SPREAD = 5.0
"""Standard deviation of the normal prior on the length's coefficient, which only matters where every longer (or every
shorter) response wins."""


def length_controlled(outcomes: Sequence[Outcome], seed: int, resamples: int) -> dict[str, Any] | None:
    """The length-controlled win rate with a bootstrap interval over prompts; None without comparisons.

    Returns:
        `mean`, `low`, `high`, and `length_effect`, the coefficient of z.

    Args:
        outcomes: Of a model against the baseline.
        seed: Of the resampling.
        resamples: Bootstrap samples of the prompts.
    """
    counted = [o for o in outcomes if o.value is not None]
    if not counted:
        return None
    y = np.array([o.value for o in counted], dtype=float)
    z = length_term(np.array([o.length_difference for o in counted], dtype=float))
    ids = {name: i for i, name in enumerate(sorted({o.id for o in counted}))}
    prompt = np.array([ids[o.id] for o in counted])
    samples = np.bincount(prompt)[prompt]
    draws = np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=resamples)
    fitted = fit(y, z, np.concatenate([np.ones((1, len(y))), draws[:, prompt]]) / samples)
    rates = 1 / (1 + np.exp(-fitted[:, 0]))
    low, high = np.quantile(rates[1:], [0.025, 0.975])
    return {"mean": float(rates[0]), "low": float(low), "high": float(high), "length_effect": float(fitted[0, 1])}


def length_term(differences: Array) -> Array:
    """tanh of differences in units of their standard deviation; 0 where all are equal."""
    spread = float(differences.std())
    return np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)


def fit(y: Array, z: Array, weights: Array, steps: int = 50) -> Array:
    """Weighted logistic regressions of outcomes on a constant and z, [B, 2], by Newton's method.

    Half a win and half a loss at z = 0 are added, as for ratings, and a wide prior on the coefficient of z.

    Args:
        y: [N] outcomes in [0, 1].
        z: [N] length terms.
        weights: [B, N], a regression each.
        steps: Newton's, at most.
    """
    y, z = np.append(y, 0.5), np.append(z, 0.0)
    weights = np.concatenate([weights, np.ones((len(weights), 1))], axis=1)
    beta = np.zeros((len(weights), 2))
    x = np.stack([np.ones_like(z), z], axis=1)
    ridge = np.diag([0.0, SLOPE_SPREAD**-2])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(beta @ x.T, -500, 500)))
        gradient = (weights * (y - p)) @ x - beta @ ridge
        curvature = np.einsum("bn,ni,nj->bij", weights * p * (1 - p), x, x, optimize=True) + ridge
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return beta
