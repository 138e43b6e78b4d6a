"""Rankings and scores as one table: a line for each pair of responses that a labeler told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.prompt_template import plain_text

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

LABELS = ("category", "labeler", "labeler_group", "language", "source")
"""Columns of one value a row; None where the row does not say."""
FLAGS = ("flags", "worse_flags", "better_flags")
"""Columns of any number of values: of the row, of the response that lost, of the one that won."""


@dataclass(frozen=True)
class PairTable:
    """N decided pairs; every array is [N]."""

    margin: Floats
    """Score of the better response minus that of the worse one; NaN without scores."""
    gap: Floats
    """Characters of the better response minus those of the worse one."""
    prompt: Integers
    """Which prompt: the unit that errors are clustered by. The same text is the same prompt."""
    row: Integers
    """Which ranking."""
    key: Integers
    """The two responses to the prompt, whatever their order and whoever ranked them."""
    sign: Integers
    """1 where the response whose text sorts first won, else -1: equal signs of a `key` are agreement."""
    labels: dict[str, NDArray[np.object_]] = field(default_factory=dict)
    """`LABELS` and `FLAGS` (tuples of names) by name."""

    def __len__(self) -> int:
        return len(self.margin)

    @property
    def right(self) -> Mask:
        """Where the reward model agrees; equal scores do not."""
        return self.margin > 0

    def where(self, mask: Mask) -> PairTable:
        """Some of the pairs."""
        arrays = {f.name: getattr(self, f.name)[mask] for f in fields(self) if f.name != "labels"}
        return PairTable(**arrays, labels={name: column[mask] for name, column in self.labels.items()})

    def has(self, name: str, value: str) -> Mask:
        """Where a column has a value, or holds it among its flags; [N]."""
        column = self.labels[name]
        if name in FLAGS:
            return np.fromiter((value in flags for flags in column), bool, len(column))
        return np.asarray(column == value, dtype=bool)

    def values(self, name: str) -> list[str]:
        """What occurs in a column, sorted."""
        column = self.labels[name]
        found = {flag for flags in column for flag in flags} if name in FLAGS else {v for v in column if v is not None}
        return sorted(found)


def pair_table(rankings: Sequence[Ranking], scores: Sequence[Sequence[float]] | None = None) -> PairTable:
    """The decided pairs of rankings; ties say nothing and are left out.

    Args:
        rankings: R rankings. `meta` may have `language`, and `response_flags`: a list of names for each response.
        scores: Of the responses, [R][K]; without them margins are NaN.

    >>> rows = [Ranking(prompt="Hi", responses=("yes", "no", "perhaps"), ranks=(1, 2, 2), category="chat")]
    >>> table = pair_table(rows, [[0.5, 0.0, 1.0]])
    >>> table.margin.tolist(), table.gap.tolist(), table.values("category")
    ([0.5, -0.5], [1.0, -4.0], ['chat'])
    """
    prompts: dict[str, int] = {}
    keys: dict[tuple[int, str, str], int] = {}
    lines: list[tuple[float, float, int, int, int, int]] = []
    labels: dict[str, list[Any]] = {name: [] for name in (*LABELS, *FLAGS)}
    for number, ranking in enumerate(rankings):
        prompt = prompts.setdefault(plain_text(ranking.prompt), len(prompts))
        own = scores[number] if scores is not None else [float("nan")] * len(ranking.responses)
        about, response_flags = _about(ranking), _response_flags(ranking)
        for i, j in combinations(range(len(ranking.responses)), 2):
            if ranking.ranks[i] == ranking.ranks[j]:
                continue
            a, b = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
            better, worse = ranking.responses[a], ranking.responses[b]
            key = keys.setdefault((prompt, min(better, worse), max(better, worse)), len(keys))
            gap = len(better) - len(worse)
            lines.append((own[a] - own[b], gap, prompt, number, key, 1 if better < worse else -1))
            pair = about | {"worse_flags": response_flags[b], "better_flags": response_flags[a]}
            for name, column in labels.items():
                column.append(pair[name])
    margins, gaps, *numbers = zip(*lines, strict=True) if lines else [()] * 6
    of_prompt, of_row, of_key, signs = (np.array(column, dtype=np.int64) for column in numbers)
    objects = {name: _objects(column) for name, column in labels.items()}
    return PairTable(
        np.array(margins, dtype=float), np.array(gaps, dtype=float), of_prompt, of_row, of_key, signs, objects
    )


def _about(ranking: Ranking) -> dict[str, Any]:
    language = ranking.meta.get("language")
    about = {name: getattr(ranking, name, None) for name in LABELS}
    return about | {"language": None if language is None else str(language), "flags": ranking.flags}


def _response_flags(ranking: Ranking) -> list[tuple[str, ...]]:
    """Flags of each response, [K]; anything but a list of lists of texts is no flags."""
    given: Any = ranking.meta.get("response_flags")
    if not isinstance(given, list) or len(given) != len(ranking.responses):
        return [()] * len(ranking.responses)
    return [tuple(map(str, flags)) if isinstance(flags, list) else () for flags in given]


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    # Filled one by one: numpy would make a table of tuples of equal length.
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        column[i] = value
    return column
