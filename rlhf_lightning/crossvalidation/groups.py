"""Labelers to groups of about equal data, and rankings to the training and evaluation of each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.data.row_labels import RowLabels
from rlhf_lightning.errors import UserError
from rlhf_lightning.seeding import derive_seed

Unit = Literal["labeler", "labeler_group"]


@dataclass(frozen=True)
class Scanned:
    """What has to be known of M rankings to assign them."""

    units: NDArray[np.str_]
    """[M] labeler or labeler group."""
    prompts: NDArray[np.str_]
    """[M] equal where prompts are."""
    pairs: NDArray[np.int64]
    """[M] decided pairs."""
    fingerprint: str


def scan(rows: RowStream[Ranking], key: str, by: Unit) -> Scanned:
    """Go through a source once.

    Args:
        rows: The source.
        key: Configuration key that named it.
        by: What must not be divided between groups.

    Raises:
        UserError: A row is broken, or does not say who ranked it.
    """
    labels, pairs, nameless, first = RowLabels(), [], 0, ""
    for row in rows:
        labels.add(row)
        pairs.append(sum(a < b for a in row.ranks for b in row.ranks))
        if getattr(row, by) is None:
            nameless, first = nameless + 1, first or f"{row.file}:{row.line}"
    if nameless:
        other = "labeler_group" if by == "labeler" else "labeler"
        raise UserError(
            f"{key}: {nameless} of {len(pairs)} rows have no `{by}` (the first: {first}), so they belong to no fold. "
            f"Name it in these rows, leave them out of the file, or give --by {other}."
        )
    return Scanned(np.array(labels.column(by)), labels.prompts, np.array(pairs), rows.fingerprint)


def balanced_groups(amounts: Mapping[str, int], folds: int, by: Unit) -> list[list[str]]:
    """Groups of about equal data: the largest labeler first, each to the group that has least.

    Args:
        amounts: Pairs of each labeler, or of each labeler group.
        folds: Groups to make.
        by: What the names are, for the message.

    Raises:
        UserError: There are fewer names than groups.

    >>> balanced_groups({"a": 5, "b": 4, "c": 3, "d": 3}, 2, "labeler")
    [['a', 'd'], ['b', 'c']]
    """
    if folds < 2:
        raise UserError(f"folds: is {folds}; one group is held out of all, so give at least 2.")
    if len(amounts) < folds:
        names = ", ".join(sorted(amounts)[:8]) + (", ..." if len(amounts) > 8 else "")
        raise UserError(
            f"folds: is {folds}, but the rankings name only {len(amounts)} different `{by}` ({names}). "
            + (f"Give --folds {len(amounts)}." if len(amounts) > 1 else "There is nobody to hold out.")
        )
    groups: list[list[str]] = [[] for _ in range(folds)]
    sizes = [0] * folds
    for name in sorted(amounts, key=lambda n: (-amounts[n], n)):
        least = sizes.index(min(sizes))
        groups[least].append(name)
        sizes[least] += amounts[name]
    return [sorted(group) for group in groups]


def amounts(*sources: Scanned) -> dict[str, int]:
    """Pairs of every labeler (or labeler group) in all sources."""
    found: dict[str, int] = {}
    for source in sources:
        for name in np.unique(source.units):
            found[str(name)] = found.get(str(name), 0) + int(source.pairs[source.units == name].sum())
    return found


@dataclass(frozen=True)
class Fold:
    """Which rows a fold is trained and evaluated on."""

    held_out: list[str]
    """The labelers (or labeler groups) that it does not learn from."""
    train: NDArray[np.bool_]
    """[M] of the training source."""
    evaluation: NDArray[np.bool_]
    """[M'] of the evaluation source: of all labelers, and no prompt of `train`."""


def make_folds(groups: Sequence[list[str]], train: Scanned, val: Scanned | None, share: float, seed: int) -> list[Fold]:
    """Rows of every fold.

    With validation rankings, those are the evaluation data of all folds, the same prompts for training groups and
    held-out group wherever both ranked them. Without, a share of the prompts is held out of every fold for the
    training groups, and the held-out group is evaluated on all of its rankings whose prompts were not trained on.

    Args:
        groups: Labelers of each group.
        train: The training source.
        val: The evaluation source; None takes evaluation data from the training source.
        share: Prompts held out then, in (0, 1).
        seed: Of the choice of prompts.

    Raises:
        UserError: Nothing is left for a fold to train on, or to be evaluated on.
    """
    source = val or train
    unseen = np.unique(val.prompts) if val else _some_prompts(train.prompts, share, seed)
    folds = []
    for number, group in enumerate(groups, start=1):
        mine = ~np.isin(train.units, group) & ~np.isin(train.prompts, unseen)
        inside = np.isin(source.units, group)
        allowed = np.isin(source.prompts, unseen) | (inside & ~np.isin(source.prompts, train.prompts[mine]))
        fold = Fold(group, mine, allowed)
        _require(fold, number, inside, val is None)
        folds.append(fold)
    return folds


def _some_prompts(prompts: NDArray[np.str_], share: float, seed: int) -> NDArray[np.str_]:
    different = np.unique(prompts)
    order = np.argsort([derive_seed(seed, f"held-out prompt {p}") for p in different])
    return different[order[: max(1, round(share * len(different)))]]


def _require(fold: Fold, number: int, inside: NDArray[np.bool_], from_train: bool) -> None:
    where = "data.init_args.train" if from_train else "data.init_args.val"
    parts = {
        "to train on": (int(fold.train.sum()), "data.init_args.train"),
        "of training groups to be evaluated on": (int((fold.evaluation & ~inside).sum()), where),
        "of the held-out group to be evaluated on": (int((fold.evaluation & inside).sum()), where),
    }
    for what, (rows, key) in parts.items():
        if not rows:
            raise UserError(
                f"{key}: fold {number}, which holds out {', '.join(fold.held_out)}, has no rankings {what} once "
                "prompts are kept apart. Give rankings of more prompts, fewer --folds, or another --held_out."
            )
