"""How often labelers judge the same pair of responses alike, and how much of that is more than chance.

An item is a prompt with two different responses that several labelers ranked, whatever else their rankings held and
in whatever order. A judgement of it is 1 (the first is better), -1, or 0 (a tie). Which response is the first means
nothing, so chance-corrected measures see every item in both orders.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.kinds import PromptLike, Ranking

Item = tuple[tuple[str, int], tuple[str, int]]
Judged = dict[str, int]
"""Judgement of an item by each labeler."""
Counts = NDArray[np.float64]
Statistic = Callable[[Counts], NDArray[np.float64]]


@dataclass(frozen=True)
class Share:
    """A number between labelers."""

    value: float | None
    """None where nothing can be said: no such items, or (kappa, alpha) chance alone explains everything."""
    error: float | None
    """Standard error by bootstrap over prompts; None with fewer than two."""


@dataclass(frozen=True)
class Agreement:
    """Of two labelers, or of all pairs of labelers together."""

    prompts: int
    """Prompts of which both ranked the same two responses."""
    items: int
    """Items that both judged; over all pairs of labelers, an item counts once for each."""
    decided: int
    """Those that neither left tied."""
    without_ties: Share
    """Share of the decided ones that both order alike."""
    with_ties: Share
    """Share of all on which both say the same, a tie being something to say."""
    kappa: Share | None
    """Cohen's, of the three judgements; None over all labelers, for whom there is `LabelerAgreement.alpha`."""


@dataclass(frozen=True)
class LabelerAgreement:
    """What the rankings of a file say about their labelers."""

    overall: Agreement
    alpha: Share
    """Krippendorff's, nominal, of the three judgements and all labelers."""
    pairs: dict[tuple[str, str], Agreement]
    """Of every two labelers with an item in common."""
    without_labeler: int
    """Rankings that were left out because nobody knows whose they are."""
    repeated: int
    """Judgements left out because the labeler had judged the item before; the first counts."""


class Judgements:
    """Who judged what how; filled ranking by ranking."""

    def __init__(self) -> None:
        self._items: dict[Hashable, dict[Item, Judged]] = {}
        self.without_labeler = self.repeated = 0

    def add(self, prompt: PromptLike, responses: Sequence[str], ranks: Sequence[int], labeler: str | None) -> None:
        """Add one ranking.

        Args:
            prompt: Rankings of equal prompts are compared.
            responses: [K].
            ranks: [K] 1 is best, equal is a tie.
            labeler: None is counted and left out.
        """
        if labeler is None:
            self.without_labeler += 1
            return
        seen: dict[str, int] = {}
        ranked = []
        for text, rank in zip(responses, ranks, strict=True):
            seen[text] = seen.get(text, 0) + 1
            ranked.append(((text, seen[text]), rank))  # the second of two equal texts is compared with a second
        items = self._items.setdefault(prompt, {})
        for (a, rank_a), (b, rank_b) in combinations(sorted(ranked), 2):
            if a[0] == b[0]:
                continue
            judged = items.setdefault((a, b), {})
            self.repeated += labeler in judged
            judged.setdefault(labeler, (rank_a < rank_b) - (rank_a > rank_b))

    def prompts(self) -> list[list[Judged]]:
        """Of every prompt the items that several labelers judged, each {labeler: judgement}."""
        shared = [[judged for judged in items.values() if len(judged) > 1] for items in self._items.values()]
        return [items for items in shared if items]


def judgements_of(rankings: Iterable[Ranking]) -> Judgements:
    """Judgements of checked rows."""
    found = Judgements()
    for row in rankings:
        found.add(row.prompt, row.responses, row.ranks, row.labeler)
    return found


def pairwise_agreement(ranks_a: Sequence[int], ranks_b: Sequence[int]) -> float | None:
    """Share of pairs of the same responses that two rankings order alike, of those that neither left tied.

    Args:
        ranks_a: [K].
        ranks_b: [K], by somebody else.

    Returns:
        None where there is no such pair.
    """
    both = Judgements()
    responses = [str(i) for i in range(len(ranks_a))]
    for labeler, ranks in (("a", ranks_a), ("b", ranks_b)):
        both.add("", responses, ranks, labeler)
    return _estimate(_pair_counts(both.prompts()), _without_ties, None).value


def labeler_agreement(judgements: Judgements, resamples: int = 1000, seed: int = 0) -> LabelerAgreement | None:
    """All there is to say about how labelers agree.

    Args:
        judgements: Of one file or several.
        resamples: Bootstrap samples of the prompts, for the standard errors; 0 for none.
        seed: Of the resampling.

    Returns:
        None where no two labelers judged the same item.
    """
    prompts = judgements.prompts()
    if not prompts:
        return None
    draw = _Resampling(resamples, seed) if resamples else None
    pairs = {names: _agreement(own, draw, kappa=True) for names, own in sorted(_by_pair(prompts).items())}
    alpha = _estimate(_coincidences(prompts), _alpha, draw)
    return LabelerAgreement(_agreement(prompts, draw), alpha, pairs, judgements.without_labeler, judgements.repeated)


def _by_pair(prompts: list[list[Judged]]) -> dict[tuple[str, str], list[list[Judged]]]:
    """What every two labelers have in common, prompt by prompt."""
    found: dict[tuple[str, str], list[list[Judged]]] = {}
    for items in prompts:
        here: dict[tuple[str, str], list[Judged]] = {}
        for judged in items:
            for a, b in combinations(sorted(judged), 2):
                here.setdefault((a, b), []).append({a: judged[a], b: judged[b]})
        for names, own in here.items():
            found.setdefault(names, []).append(own)
    return found


@dataclass(frozen=True)
class _Resampling:
    resamples: int
    seed: int

    def totals(self, counts: Counts) -> Counts:
        """Counts [P, S] of prompts to their sums in resampled sets of prompts, [resamples, S]."""
        rng, size = np.random.default_rng(self.seed), len(counts)
        # One resample at a time: a matrix of all of them would not fit for many prompts.
        return np.stack(
            [np.bincount(rng.integers(size, size=size), minlength=size) @ counts for _ in range(self.resamples)]
        )


def _agreement(prompts: list[list[Judged]], draw: _Resampling | None, kappa: bool = False) -> Agreement:
    counts = _pair_counts(prompts)
    items, _, decided = counts.sum(axis=0)[:3]
    return Agreement(
        len(prompts),
        int(items),
        int(decided),
        _estimate(counts, _without_ties, draw),
        _estimate(counts, _with_ties, draw),
        _estimate(counts, _kappa, draw) if kappa else None,
    )


def _pair_counts(prompts: list[list[Judged]]) -> Counts:
    """[P, 6]: items of two labelers, judged alike, decided by both, those alike, ties of the first, of the second."""
    rows = []
    for items in prompts:
        row = [0] * 6
        for judged in items:
            for a, b in combinations(judged.values(), 2):
                row[0] += 1
                row[1] += a == b
                row[2] += a != 0 and b != 0
                row[3] += a == b != 0
                row[4] += a == 0
                row[5] += b == 0
        rows.append(row)
    return np.array(rows, dtype=float).reshape(-1, 6)


def _coincidences(prompts: list[list[Judged]]) -> Counts:
    """[P, 3]: judgements, ties among them, and disagreements (ordered, those of an item with m judgements by m - 1)."""
    rows = []
    for items in prompts:
        row = [0.0] * 3
        for judged in items:
            values = list(judged.values())
            row[0] += len(values)
            row[1] += values.count(0)
            row[2] += 2 * sum(a != b for a, b in combinations(values, 2)) / (len(values) - 1)
        rows.append(row)
    return np.array(rows, dtype=float).reshape(-1, 3)


def _estimate(counts: Counts, statistic: Statistic, draw: _Resampling | None) -> Share:
    value = float(statistic(counts.sum(axis=0, keepdims=True))[0]) if len(counts) else np.nan
    error = np.nan
    if draw is not None and len(counts) > 1 and np.isfinite(value):
        drawn = statistic(draw.totals(counts))
        drawn = drawn[np.isfinite(drawn)]
        error = float(drawn.std(ddof=1)) if len(drawn) > 1 else np.nan
    return Share(value if np.isfinite(value) else None, error if np.isfinite(error) else None)


def _share(part: Counts, whole: Counts) -> NDArray[np.float64]:
    share = np.full(part.shape, np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


def _without_ties(totals: Counts) -> NDArray[np.float64]:
    return _share(totals[:, 3], totals[:, 2])


def _with_ties(totals: Counts) -> NDArray[np.float64]:
    return _share(totals[:, 1], totals[:, 0])


def _kappa(totals: Counts) -> NDArray[np.float64]:
    """Cohen 1960; in both orders of every item "first" and "second" are equally frequent, so chance is ties alone."""
    items, same, _, _, ties_a, ties_b = totals.T
    a, b = _share(ties_a, items), _share(ties_b, items)
    chance = a * b + (1 - a) * (1 - b) / 2
    return _share(_share(same, items) - chance, 1 - chance)


def _alpha(totals: Counts) -> NDArray[np.float64]:
    """Krippendorff 2011, nominal: 1 - observed / expected disagreement, with every item in both orders."""
    judgements, ties, apart = 2 * totals.T
    expected = judgements**2 - ties**2 - (judgements - ties) ** 2 / 2
    return 1 - _share((judgements - 1) * apart, expected)
