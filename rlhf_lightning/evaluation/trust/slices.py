"""Accuracy of the reward model on parts of the held-out pairs, next to how much it was trained on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf_lightning.evaluation.trust.clustered import Share, benjamini_hochberg, difference, share_of_some, tally
from rlhf_lightning.evaluation.trust.pairs import FLAGS, Floats, Mask, PairTable
from rlhf_lightning.evaluation.trust.settings import SliceSettings

CONTENT = ("category", "language", "source", *FLAGS, "category x flags", "category x worse_flags")
"""Dimensions of what was asked and answered."""
DESCRIBED = ("better_flags",)
"""Not judged: where the flagged response won the label is often the mistake."""
STARVED = 0.1
"""A slice with less than this share of the training prompts it would have if training were like the held-out pairs."""
EXPECTED_PROMPTS = 10
"""Starvation is judged where so many training prompts are expected: of 10, less than one by chance is 1 in 20,000."""


@dataclass(frozen=True)
class Slice:
    """A part of the held-out pairs."""

    dimension: str
    """A column of the table, two of them joined by " x ", "length gap" or "score gap"."""
    value: str
    accuracy: Share
    rest: Share | None = None
    """What it is compared with: the other pairs, or for two columns those with the same flag; None: not judged."""
    against: str = ""
    """In words, what `rest` is."""
    lower: Share | None = None
    """Its accuracy minus the rest's."""
    p: float | None = None
    """One-sided, that it is not below the rest."""
    p_adjusted: float | None = None
    worse: bool = False
    """Significantly below the rest, counting how many slices were looked at."""
    train_rows: int | None = None
    """Training rankings with a pair of this kind; None where training rankings are not known."""
    train_pairs: int | None = None
    starved: bool = False
    """Training has far less of it than these pairs would lead to expect."""


def describe_slices(
    table: PairTable, training: PairTable | None, dimensions: Sequence[str], settings: SliceSettings
) -> list[Slice]:
    """Every value of every dimension, compared with the rest; `judge` then says which are worse.

    Args:
        table: Held-out pairs with scores.
        training: Pairs that the model was trained on; scores are not needed.
        dimensions: Columns, or two joined by " x ", the second of which holds flags.
        settings: When a slice is judged.
    """
    found = []
    for dimension in dimensions:
        names = dimension.split(" x ")
        for value in _values(table, names):
            mask, rest = _mask(table, names, value), ~_mask(table, names, value)
            against = "the other pairs"
            if len(names) == 2:
                alike = table.has(names[1], value[1]) & rest
                if _enough(table, alike, settings):
                    rest, against = alike, f"{names[1]} {value[1]} elsewhere"
            one = _describe(table, mask, rest, against, Slice(dimension, " x ".join(value), _none()), settings)
            found.append(_with_training(one, table, training, mask, names, value))
    return found


def judge(slices: Sequence[Slice], settings: SliceSettings) -> list[Slice]:
    """Adjust the p-values for the number of slices that were compared, and mark those that are worse.

    Starved slices are a family of their own: they are chosen by training counts, before any accuracy is looked at.
    """
    judged = list(slices)
    for starved in (True, False):
        family = [i for i, s in enumerate(slices) if s.p is not None and s.starved == starved]
        for i, p in zip(family, benjamini_hochberg([slices[i].p or 0.0 for i in family]), strict=True):
            lower = slices[i].lower
            effect = lower is not None and lower.value <= -settings.min_effect
            judged[i] = replace(slices[i], p_adjusted=p, worse=effect and p <= settings.false_discovery_rate)
    return judged


def gap_slices(table: PairTable, column: str, bins: int = 4) -> list[Slice]:
    """Accuracy by quantiles of the length gap (signed) or of the score gap (its size); described, not judged.

    A small score gap is a pair that the model finds hard, so that fewer of them are right is no fault.
    """
    values = table.gap if column == "length gap" else np.abs(table.margin)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
    number = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [
        Slice(column, _between(column, values[number == i]), _share(table, number == i))
        for i in range(max(len(edges) - 1, 1))
    ]


def _between(column: str, values: Floats) -> str:
    if column == "length gap":
        return f"{values.min():+.0f} to {values.max():+.0f} characters"
    return f"{values.min():.2f} to {values.max():.2f}"


def _values(table: PairTable, names: Sequence[str]) -> list[tuple[str, ...]]:
    if len(names) == 1:
        return [(v,) for v in table.values(names[0])]
    pairs = [(a, b) for a in table.values(names[0]) for b in table.values(names[1])]
    return [pair for pair in pairs if _mask(table, names, pair).any()]


def _mask(table: PairTable, names: Sequence[str], value: Sequence[str]) -> Mask:
    mask = np.ones(len(table), dtype=bool)
    for name, v in zip(names, value, strict=True):
        mask &= table.has(name, v)
    return mask


def _none() -> Share:
    return Share(float("nan"), float("nan"), 0, 0)


def _share(table: PairTable, mask: Mask) -> Share:
    return share_of_some(tally(table.right[mask], table.prompt[mask]))


def _judged(share: Share, settings: SliceSettings) -> bool:
    return settings.enough(share.pairs, share.prompts)


def _enough(table: PairTable, mask: Mask, settings: SliceSettings) -> bool:
    return bool(mask.any()) and _judged(_share(table, mask), settings)


def _describe(table: PairTable, mask: Mask, rest: Mask, against: str, one: Slice, settings: SliceSettings) -> Slice:
    one = replace(one, accuracy=_share(table, mask))
    if one.dimension in DESCRIBED or not (_judged(one.accuracy, settings) and _enough(table, rest, settings)):
        return one
    mine, others = (tally(table.right[m], table.prompt[m]) for m in (mask, rest))
    lower = difference(mine, others)
    return replace(one, rest=share_of_some(others), against=against, lower=lower, p=lower.p_below())


def _with_training(
    one: Slice, table: PairTable, training: PairTable | None, mask: Mask, names: Sequence[str], value: Sequence[str]
) -> Slice:
    if training is None:
        return one
    found = _mask(training, names, value)
    expected = len(np.unique(table.prompt[mask])) / len(np.unique(table.prompt)) * len(np.unique(training.prompt))
    has = len(np.unique(training.prompt[found]))
    # Whole groups of labelers are held out on purpose.
    meant = any(name.startswith("labeler") for name in names)
    starved = not meant and expected >= EXPECTED_PROMPTS and has < STARVED * expected
    return replace(one, train_rows=len(np.unique(training.row[found])), train_pairs=int(found.sum()), starved=starved)
