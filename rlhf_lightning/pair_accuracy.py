"""How many pairs of responses scores order as a labeler did, with errors that know about shared prompts.

Pairs of one prompt are correlated: a response that is scored wrongly is wrong in several pairs, and in the rankings of
all labelers of its prompt. Errors here are those of sums over prompts (clusters), not over pairs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A share or a difference of shares."""

    value: float
    error: float | None
    """Standard error, clustered by prompt; None with fewer than two prompts."""
    pairs: int
    prompts: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.error is None else f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class PairCounts:
    """What became of M rankings."""

    right: NDArray[np.int64]
    """[M] pairs of each ranking that the scores order as it does."""
    pairs: NDArray[np.int64]
    """[M] pairs that it decides; ties are none (C.2)."""
    prompt: NDArray[Any]
    """[M] its prompt: equal values are the same prompt, whoever ranked it."""

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.integer]) -> PairCounts:
        """Some of the rankings, by a mask [M] or by their numbers."""
        return PairCounts(self.right[chosen], self.pairs[chosen], self.prompt[chosen])


def count_pairs(
    scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]], prompts: Sequence[Hashable]
) -> PairCounts:
    """Counts of rankings whose responses have scores.

    Args:
        scores: [M][K] one score per response, higher is better; equal scores order a pair wrongly.
        ranks: [M][K] 1 is best, equal is a tie.
        prompts: [M].

    >>> count_pairs([[2.0, 0.0, 1.0]], [[1, 2, 3]], ["a prompt"])
    PairCounts(right=array([2]), pairs=array([3]), prompt=array([0]))
    """
    counts = []
    for own_scores, own_ranks in zip(scores, ranks, strict=True):
        s, r = np.asarray(own_scores, dtype=float), np.asarray(own_ranks)
        if s.shape != r.shape:
            raise ValueError(f"{len(s)} scores for {len(r)} ranks.")
        decided = r[:, None] < r[None, :]
        counts.append((int((decided & (s[:, None] > s[None, :])).sum()), int(decided.sum())))
    right, pairs = np.array(counts, dtype=np.int64).reshape(-1, 2).T
    numbers: dict[Hashable, int] = {}
    prompt = np.array([numbers.setdefault(p, len(numbers)) for p in prompts], dtype=np.int64)
    if len(prompt) != len(pairs):
        raise ValueError(f"{len(prompt)} prompts for {len(pairs)} rankings.")
    return PairCounts(right, pairs, prompt)


def accuracy(counts: PairCounts) -> Estimate:
    """Share of pairs that are ordered right.

    Raises:
        ValueError: There are no pairs.

    >>> str(accuracy(count_pairs([[1, 0], [1, 0], [0, 1]], [[1, 2]] * 3, ["a", "b", "c"])))
    '0.667 ± 0.333'
    """
    return combination([(1.0, counts)])


def combination(parts: Sequence[tuple[float, PairCounts]]) -> Estimate:
    """Sum of accuracies with weights: a mean over folds with 1/k each, a gap with 1 and -1.

    The error is the ratio estimator's (Cochran 1977, §6 and §9; with G/(G - 1) for few of the G prompts): a prompt that
    occurs in several parts moves them together, so a gap on the same prompts is known better than on different ones.

    Args:
        parts: Weights and counts; prompts have the same values in all parts.

    Returns:
        The sum, its error, all pairs and the different prompts of all parts.

    Raises:
        ValueError: A part has no pairs.
    """
    prompts, where = np.unique(np.concatenate([p.prompt for _, p in parts]), return_inverse=True)
    value, start = 0.0, 0
    influence = np.zeros(len(prompts))
    for weight, part in parts:
        total = int(part.pairs.sum())
        if not total:
            raise ValueError("no pairs to take a share of.")
        share = int(part.right.sum()) / total
        own = where[start : start + len(part.prompt)]
        start += len(own)
        value += weight * share
        influence += weight * np.bincount(own, (part.right - share * part.pairs) / total, len(prompts))
    used = len(prompts)
    error = float(np.sqrt(used / (used - 1) * np.square(influence).sum())) if used > 1 else None
    return Estimate(value, error, sum(int(p.pairs.sum()) for _, p in parts), used)


def by_slice(counts: PairCounts, labels: Sequence[str | None], missing: str = "(none)") -> dict[str, Estimate]:
    """Accuracy of each slice of the rankings, in alphabetical order, the rankings without a label last.

    Args:
        counts: Of M rankings.
        labels: [M] the slice of each.
        missing: Name of the slice of those without a label.
    """
    found = np.array([-1] * len(labels))
    names = sorted({name for name in labels if name is not None})
    numbers = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(labels):
        if name is not None:
            found[i] = numbers[name]
    slices = {name: counts[found == number] for name, number in [*numbers.items(), (missing, -1)]}
    return {name: accuracy(own) for name, own in slices.items() if own.pairs.sum()}
