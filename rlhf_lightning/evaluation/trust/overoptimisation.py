"""Proxy and gold score against KL, and where they part (Gao et al. 2022, arXiv 2210.10760)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from rlhf_lightning.evaluation.intervals import Interval, mean_interval
from rlhf_lightning.evaluation.trust.clustered import Share
from rlhf_lightning.evaluation.trust.pairs import Floats

LEVEL = 0.05
RESAMPLES = 2000


@dataclass(frozen=True)
class Optimised:
    """One policy (or n) on P prompts; means of each prompt's outputs."""

    name: str
    kl: float
    """Mean KL to the reference, nats per response."""
    proxy: Floats
    """[P], the reward model's score."""
    gold: Floats | None
    """[P], what is really wanted; None where it is not known."""


@dataclass(frozen=True)
class Point:
    """One point of the curve, with 95 % bootstrap intervals over prompts."""

    name: str
    kl: float
    proxy: Interval
    gold: Interval | None


@dataclass(frozen=True)
class Parting:
    """Where proxy and gold part."""

    verdict: Literal["falls", "stalls", "together"]
    """"falls": gold is significantly lower at a later point with a significantly higher proxy. "stalls": the proxy
    goes on rising significantly past gold's best point, and gold does not. "together": neither can be shown."""
    peak: str
    """The model with the highest mean gold."""
    kl: float
    """Its KL."""
    kl_low: float
    kl_high: float
    """95 % of the bootstrap samples of prompts have gold's best point in this range of KL."""
    at: str | None
    """The first model past the peak that shows it."""
    gold_lost: float | None
    """Mean gold of the peak minus that of the last model."""


def curve(policies: Sequence[Optimised]) -> list[Point]:
    """Points in the order of KL."""
    ordered = sorted(policies, key=lambda p: p.kl)
    return [
        Point(p.name, p.kl, mean_interval(p.proxy.tolist()), None if p.gold is None else mean_interval(p.gold.tolist()))
        for p in ordered
    ]


def parting(policies: Sequence[Optimised], seed: int = 0) -> Parting | None:
    """Where gold stops to follow the proxy, over policies that answered the same prompts in the same order.

    Gold's best point is compared with each later one, prompt by prompt. Because the best point was chosen by its gold,
    p-values count all pairs of points (Bonferroni).

    Args:
        policies: In any order; at least 2.
        seed: Of the bootstrap.

    Returns:
        None where gold is not known or there are fewer than two points.
    """
    ordered = sorted(policies, key=lambda p: p.kl)
    if len(ordered) < 2 or any(p.gold is None for p in ordered):
        return None
    gold, proxy = np.stack([p.gold for p in ordered if p.gold is not None]), np.stack([p.proxy for p in ordered])
    kl = np.array([p.kl for p in ordered])
    best = int(gold.mean(axis=1).argmax())
    draws = np.random.default_rng(seed).integers(gold.shape[1], size=(RESAMPLES, gold.shape[1]))
    peaks = kl[np.stack([row[draws].mean(axis=1) for row in gold]).argmax(axis=0)]
    low, high = np.quantile(peaks, [0.025, 0.975])
    level = LEVEL / (len(ordered) * (len(ordered) - 1) / 2)
    rises = [k for k in range(best + 1, len(kl)) if _mean(proxy[k] - proxy[best]).p_above() <= level]
    falls = [k for k in rises if _mean(gold[k] - gold[best]).p_below() <= level]
    at = falls[0] if falls else rises[0] if rises else None
    verdict: Literal["falls", "stalls", "together"] = "falls" if falls else "stalls" if rises else "together"
    lost = float((gold[best] - gold[-1]).mean())
    name = None if at is None else ordered[at].name
    return Parting(verdict, ordered[best].name, float(kl[best]), float(low), float(high), name, lost)


def best_of_n(proxy: Floats, gold: Floats | None, counts: Sequence[int] | None = None) -> list[Optimised]:
    """Best-of-n by the proxy, from N samples of each prompt.

    The expectation over all subsets of n samples, which wastes none (Nakano et al. 2021, 2112.09332): the i-th smallest
    of N is the largest of a subset in C(i-1, n-1) of C(N, n). Equal scores share their weight.

    Args:
        proxy: Scores of the samples, [P, N].
        gold: The same of gold, or None.
        counts: Which n; powers of 2 up to N by default.
    """
    size = proxy.shape[1]
    wanted = counts or sorted({2**i for i in range(size.bit_length()) if 2**i <= size} | {size})
    return [
        Optimised(
            f"best of {n}",
            best_of_n_kl(n),
            _expected(proxy, proxy, n),
            None if gold is None else _expected(proxy, gold, n),
        )
        for n in wanted
    ]


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n to what it samples from, log n - (n - 1) / n nats (Stiennon et al. 2020, 2009.01325, App. G.3).

    >>> [round(best_of_n_kl(n), 3) for n in (1, 2, 16)]
    [0.0, 0.193, 1.835]
    """
    return math.log(n) - (n - 1) / n


def _expected(by: Floats, of: Floats, n: int) -> Floats:
    size = by.shape[1]
    weights = np.array([math.comb(i, n - 1) / math.comb(size, n) for i in range(size)])
    out = np.empty(len(by))
    for row, (scores, values) in enumerate(zip(by, of, strict=True)):
        order = np.argsort(scores, kind="stable")
        edges = [0, *(np.flatnonzero(np.diff(scores[order])) + 1).tolist(), size]
        out[row] = sum(weights[a:b].sum() * values[order[a:b]].mean() for a, b in pairwise(edges))
    return out


def _mean(values: Floats) -> Share:
    n = len(values)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return Share(float(values.mean()), error, n, n, bounded=False)
