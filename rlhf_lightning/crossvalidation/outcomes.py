"""Accuracies of all folds and seeds to means, gaps and their errors."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

import numpy as np

from rlhf_lightning.crossvalidation.groups import Unit
from rlhf_lightning.pair_accuracy import Estimate, PairCounts, combination


@dataclass(frozen=True)
class FoldCounts:
    """One training, evaluated on labelers it has learnt from and on others."""

    training: PairCounts
    held_out: PairCounts


@dataclass(frozen=True)
class Compared:
    """Accuracy on training groups, on the held-out group, and the first minus the second."""

    training: Estimate
    held_out: Estimate
    gap: Estimate


@dataclass(frozen=True)
class Summary:
    """All of a cross-validation."""

    folds: list[Compared]
    """Means over seeds."""
    mean: Compared
    """Over folds and seeds, each the same weight. Its errors are those of the choice of prompts."""
    over_folds: dict[str, float]
    """Standard error of the same means from how much folds differ: of the choice of labelers too."""
    over_seeds: dict[str, float] | None
    """Standard deviation of a seed's mean over folds; None with one seed."""


def read_counts(run: Path, by: Unit, held_out: Sequence[str]) -> FoldCounts:
    """What a validation has written about each ranking.

    Args:
        run: Where it has.
        by: Column of what was held out.
        held_out: Names.
    """
    with (run / "val_rankings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right, pairs = (np.array([int(row[name]) for row in rows]) for name in ("right", "pairs"))
    counts = PairCounts(right, pairs, np.array([row["prompt"] for row in rows]))
    inside = np.array([row[by] in held_out for row in rows])
    return FoldCounts(counts[~inside], counts[inside])


def summarize(folds: Sequence[Sequence[FoldCounts]]) -> Summary:
    """Everything that is reported.

    Args:
        folds: [k][seeds].
    """
    everything = [one for fold in folds for one in fold]
    seeds = [compare([fold[i] for fold in folds]) for i in range(len(folds[0]))]
    each = [compare(fold) for fold in folds]
    spread = {name: stdev(_values(each, name)) / len(each) ** 0.5 for name in ("training", "held_out", "gap")}
    of_seeds = {name: stdev(_values(seeds, name)) for name in spread} if len(seeds) > 1 else None
    return Summary(each, compare(everything), spread, of_seeds)


def compare(trainings: Sequence[FoldCounts]) -> Compared:
    """Means over trainings, each the same weight."""
    share = 1 / len(trainings)
    training = [(share, one.training) for one in trainings]
    held_out = [(share, one.held_out) for one in trainings]
    gap = combination([*training, *((-weight, counts) for weight, counts in held_out)])
    return Compared(combination(training), combination(held_out), gap)


def _values(compared: Sequence[Compared], name: str) -> list[float]:
    return [getattr(one, name).value for one in compared]
