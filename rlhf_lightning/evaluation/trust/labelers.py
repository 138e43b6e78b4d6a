"""The labelers: who agrees with whom and with the reward model, who ranks by length, and who by dice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlhf_lightning.evaluation.trust.clustered import (
    Share,
    benjamini_hochberg,
    difference,
    share,
    share_of_some,
    tally,
    tally_of,
    together,
)
from rlhf_lightning.evaluation.trust.pairs import Floats, PairTable
from rlhf_lightning.evaluation.trust.settings import SliceSettings
from rlhf_lightning.pair_accuracy import PairCounts

MIN_TASTE = 0.10
"""A taste for length is a share of longer ones preferred that is this far from the other labelers'."""
PREDICTIVE = 0.55
"""And that lets length predict the labeler's choice at least so well, by the whole interval."""
Fault = Literal["", "noise", "length"]


@dataclass(frozen=True)
class LabelerReport:
    """One labeler; shares are over pairs that the labelers in question told apart."""

    name: str
    model: Share
    """Agreement of the reward model with this labeler."""
    model_with_others: Share | None
    """With all the other labelers; None where there are none."""
    others: Share | None
    """Agreement of the other labelers with this one, over pairs that both ranked; None without any."""
    among_others: Share | None
    """Agreement of the others with each other."""
    longer: Share | None
    """How often the longer one is preferred; None where lengths are all equal."""
    longer_of_others: Share | None
    fault: Fault = ""
    """"length": ranks by length. "noise": does not, and agrees with nobody more than chance."""
    p: float | None = None
    """Of the fault, adjusted for the number of labelers."""


class Votes:
    """Which of two responses each labeler preferred, by pair."""

    def __init__(self, table: PairTable, names: Sequence[str]) -> None:
        keys, index = np.unique(table.key, return_inverse=True)
        self.names = list(names)
        self.sign = np.zeros((len(keys), len(names)), dtype=np.int8)
        for column, name in enumerate(names):
            mine = table.has("labeler", name)
            self.sign[index[mine], column] = table.sign[mine]
        self.prompt = np.zeros(len(keys), dtype=np.int64)
        self.prompt[index] = table.prompt

    def _counts(self, names: Collection[str]) -> tuple[Floats, Floats]:
        columns = [i for i, name in enumerate(self.names) if name in names]
        chosen = self.sign[:, columns]
        return (chosen > 0).sum(1).astype(float), (chosen < 0).sum(1).astype(float)

    def with_others(self, name: str, others: Collection[str]) -> PairCounts:
        """How often others agree with a labeler."""
        mine, (up, down) = self.sign[:, self.names.index(name)], self._counts(others)
        alike = np.where(mine > 0, up, down) * (mine != 0)
        return self._tally(alike, (up + down) * (mine != 0))

    def among(self, names: Collection[str]) -> PairCounts:
        """How often any two of some labelers agree."""
        up, down = self._counts(names)
        both = up + down
        return self._tally((up * (up - 1) + down * (down - 1)) / 2, both * (both - 1) / 2)

    def _tally(self, alike: Floats, total: Floats) -> PairCounts:
        return tally_of(alike, total, self.prompt)


def describe_labelers(table: PairTable, settings: SliceSettings) -> list[LabelerReport]:
    """Every labeler, with the faults that the tests find; empty where rows name none.

    Length is looked at first, then noise among the others, each time the clearest case first and without those already
    named: one bad labeler makes all others look out of line. The thresholds stand at the top of this file.

    Args:
        table: Held-out pairs; labelers that rank the same prompts make the tests sharper, but none need to.
        settings: Labelers with fewer pairs or prompts are shown and not named.
    """
    names = table.values("labeler")
    if not names:
        return []
    board = _Board(table, names, settings)
    reports = {name: board.report(name) for name in names}
    pool = list(names)
    for fault in ("length", "noise"):
        while len(pool) > 1 and (found := board.worst(fault, pool)):
            name, p = found
            pool.remove(name)
            reports[name] = replace(reports[name], fault=fault, p=p)
    return list(reports.values())


class _Board:
    def __init__(self, table: PairTable, names: Sequence[str], settings: SliceSettings) -> None:
        self.settings, self.votes = settings, Votes(table, names)
        self.model: dict[str, PairCounts] = {}
        self.longer: dict[str, PairCounts] = {}
        for name in names:
            mine = table.where(table.has("labeler", name))
            self.model[name] = tally(mine.right, mine.prompt)
            mine = mine.where(mine.gap != 0)
            self.longer[name] = tally(mine.gap > 0, mine.prompt)

    def report(self, name: str) -> LabelerReport:
        """A labeler beside all the others."""
        others = [n for n in self.model if n != name]
        return LabelerReport(
            name,
            share_of_some(self.model[name]),
            share(_sum(self.model, others)),
            share(self.votes.with_others(name, others)),
            share(self.votes.among(others)),
            share(self.longer[name]),
            share(_sum(self.longer, others)),
        )

    def worst(self, fault: str, pool: Sequence[str]) -> tuple[str, float] | None:
        """The labeler of the pool with the clearest fault, and its p-value adjusted for the size of the pool."""
        test = self._length if fault == "length" else self._noise
        cases = [(name, *case) for name in pool if (case := test(name, [n for n in pool if n != name]))]
        adjusted = benjamini_hochberg([p for _, p, _, _ in cases])
        rate = self.settings.false_discovery_rate
        guilty = [
            (size, name, p)
            for (name, _, is_case, size), p in zip(cases, adjusted, strict=True)
            if is_case and p <= rate
        ]
        return (max(guilty)[1], max(guilty)[2]) if guilty else None

    def _length(self, name: str, others: Sequence[str]) -> tuple[float, bool, tuple[float, float]] | None:
        """p-value, whether the effect is large enough, and its size; None where there is too little to judge."""
        mine, theirs = self.longer[name], _sum(self.longer, others)
        if not self._enough(mine, theirs):
            return None
        gap, own = difference(mine, theirs), share_of_some(mine)
        longer = gap.value > 0
        predicts = own.interval.low > PREDICTIVE if longer else own.interval.high < 1 - PREDICTIVE
        p = min(1.0, 2 * (gap.p_above() if longer else gap.p_below()))
        return p, predicts and abs(gap.value) >= MIN_TASTE, (abs(gap.value), abs(own.value - 0.5))

    def _noise(self, name: str, others: Sequence[str]) -> tuple[float, bool, tuple[float, float]] | None:
        mine, theirs = self.votes.with_others(name, others), self.votes.among(others)
        if not self._enough(mine, theirs):  # no shared prompts: the reward model stands in for the others
            mine, theirs = self.model[name], _sum(self.model, others)
        if not self._enough(mine, theirs):
            return None
        gap, own, usual = difference(mine, theirs), share_of_some(mine), share_of_some(theirs)
        at_chance = own.interval.high < (0.5 + usual.value) / 2
        return gap.p_below(), at_chance, (-gap.value, 0.0)

    def _enough(self, *tallies: PairCounts) -> bool:
        return all((one := share(t)) is not None and self.settings.enough(one.pairs, one.prompts) for t in tallies)


def _sum(tallies: dict[str, PairCounts], names: Sequence[str]) -> PairCounts:
    return together([tallies[name] for name in names])
