"""Bradley-Terry ratings of all models from all their comparisons, also as Elo, with intervals over prompts.

P(a beats b) = σ(θ_a − θ_b) (Bradley and Terry 1952), ties counting as half a win of each. Elo is the same number on
another scale: 400 points are odds of ten to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.evaluation.comparing import Outcome, Pairing
from rlhf_lightning.evaluation.intervals import Interval, t_quantile

Array = NDArray[np.float64]

ELO_PER_NAT = 400 / math.log(10)
ELO_OF_BASELINE = 1000.0
PRIOR_WINS = 0.5
"""Added to the wins of both sides of every pairing (Haldane 1956; Anscombe 1956): it takes the first-order bias off
log-odds, and a model that has won everything gets a finite rating."""


def ratings(
    outcomes: Mapping[Pairing, Sequence[Outcome]], models: Sequence[str], baseline: str
) -> dict[str, dict[str, Any]]:
    """Ratings of all models; None for those that no chain of comparisons leads to from the baseline, and where there
    is a single prompt.

    Args:
        outcomes: Of every two models in either order or both.
        models: Names.
        baseline: Has 0 and 1000 by definition; the others' ratings, and their intervals, are differences to it.
    """
    wins = prompt_wins(outcomes, models)
    anchor = models.index(baseline)
    kept = [i for i, reached in enumerate(_reached(wins.sum(0), anchor)) if reached]
    intervals = rating_intervals(wins[:, kept][:, :, kept], kept.index(anchor))
    by_name = {models[i]: interval for i, interval in zip(kept, intervals, strict=True)}
    return {m: _both_scales(by_name.get(m)) for m in models}


def prompt_wins(outcomes: Mapping[Pairing, Sequence[Outcome]], models: Sequence[str]) -> Array:
    """[N, M, M] over prompts: how often (0 to 1) the row's model beats the column's; 0 both ways without comparison.

    A prompt's samples are averaged, so that every prompt counts once for every pairing.
    """
    ids = sorted({o.id for found in outcomes.values() for o in found})
    number, place = {name: i for i, name in enumerate(ids)}, {m: i for i, m in enumerate(models)}
    wins = np.zeros((len(ids), len(models), len(models)))
    for (a, b), found in outcomes.items():
        if (b, a) in outcomes and place[a] > place[b]:
            continue  # the same comparisons, seen from the other side
        values: dict[str, list[float]] = {}
        for outcome in found:
            if outcome.value is not None:
                values.setdefault(outcome.id, []).append(outcome.value)
        for name, all_of_it in values.items():
            mean = sum(all_of_it) / len(all_of_it)
            wins[number[name], place[a], place[b]] = mean
            wins[number[name], place[b], place[a]] = 1 - mean
    return wins


def rating_intervals(wins: Array, anchor: int, confidence: float = 0.95) -> list[Interval]:
    """Ratings in nats with intervals over prompts.

    Standard errors are the sandwich estimator's with a cluster for each prompt, whose comparisons are not independent
    of each other; the added wins count with the variance that as many comparisons would have. The percentile bootstrap
    is about as wide but centered worse: it covers 92 to 94 % where this covers 94 to 96 %
    (`benchmarks/evaluation/coverage.md`).

    Args:
        wins: [N, M, M], see `prompt_wins`.
        anchor: Number of the model whose rating is 0.
        confidence: Coverage, in (0, 1).
    """
    n, m, _ = wins.shape
    theta = bradley_terry(wins.sum(0), anchor)
    free = [i for i in range(m) if i != anchor]
    errors = np.zeros(m)
    if free and n > 1:
        games = wins + wins.swapaxes(1, 2)
        p = expected(theta)
        scores = (wins - games * p).sum(2)[:, free]
        added = 2 * PRIOR_WINS * (games.sum(0) > 0)
        inverse = np.linalg.inv(_curvature((games.sum(0) + added) * p * (1 - p))[free][:, free])
        noise = scores.T @ scores * n / (n - 1) + _curvature(added * p * (1 - p))[free][:, free]
        errors[free] = np.sqrt(np.diag(inverse @ noise @ inverse))
    elif free:
        errors[free] = np.inf
    reach = t_quantile(n - 1, confidence)
    halves = [0.0 if i == anchor else reach * errors[i] for i in range(m)]
    return [Interval(float(t), float(t - half), float(t + half)) for t, half in zip(theta, halves, strict=True)]


def expected(theta: Array) -> Array:
    """[..., M, M], the probability that the row's model beats the column's."""
    return np.asarray(1 / (1 + np.exp(theta[..., None, :] - theta[..., :, None])))


def bradley_terry(wins: Array, anchor: int = 0, prior: float = PRIOR_WINS, steps: int = 50) -> Array:
    """Maximum-likelihood ratings [..., M] in nats by Newton's method, the anchor's being 0.

    Args:
        wins: [..., M, M], how often the row's model has beaten the column's.
        anchor: Number of the model whose rating is 0.
        prior: Wins added to both sides of every pairing that has any.
        steps: Newton's, at most.

    >>> float(bradley_terry(np.array([[0.0, 1.0], [3.0, 0.0]]), prior=0)[1])  # log 3
    1.0986122886681098
    """
    games = wins + wins.swapaxes(-1, -2)
    wins = wins + prior * (games > 0)
    games = wins + wins.swapaxes(-1, -2)
    m = wins.shape[-1]
    free = [i for i in range(m) if i != anchor]
    theta = np.zeros(wins.shape[:-1])
    if not free:
        return theta
    for _ in range(steps):
        p = expected(theta)
        gradient = (wins - games * p).sum(-1)[..., free]
        curvature = _curvature(games * p * (1 - p))[..., free, :][..., free]
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        # Far from the solution a full step overshoots.
        theta[..., free] += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return theta


def _curvature(weights: Array) -> Array:
    """[..., M, M], minus the second derivative of the log-likelihood from the pairings' Fisher information."""
    return np.asarray(weights.sum(-1)[..., None] * np.eye(weights.shape[-1]) - weights)


def _reached(wins: Array, anchor: int) -> list[bool]:
    linked = (wins + wins.T) > 0
    reached = np.zeros(len(wins), dtype=bool)
    reached[anchor] = True
    for _ in range(len(wins)):
        reached |= linked[reached].any(0)
    return [bool(r) for r in reached]


def _both_scales(interval: Interval | None) -> dict[str, Any]:
    if interval is None or not math.isfinite(interval.high):
        return {"bradley_terry": None, "elo": None}
    elo = {k: ELO_OF_BASELINE + ELO_PER_NAT * v for k, v in asdict(interval).items()}
    return {"bradley_terry": asdict(interval), "elo": elo}
