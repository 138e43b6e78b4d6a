"""Rankings of exactly K responses, and the pairs that a pairwise trainer makes of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StrictRanking:
    """A prompt with K different responses, best first; no ties, so that all K(K-1)/2 pairs are decided."""

    prompt: str
    responses: tuple[str, ...]
    borrowed: int
    """Responses that were written to other prompts."""


def expand_pairs(k: int) -> list[tuple[int, int]]:
    """All (better, worse) pairs of K responses that stand best first.

    >>> expand_pairs(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return [(i, j) for i in range(k) for j in range(i + 1, k)]


def ordered_responses(row: dict[str, Any]) -> list[str]:
    """The different responses of a row, best first; ties are broken by their place in the row.

    >>> ordered_responses({"responses": ["c", "a", "b", "a"], "ranks": [2, 1, 2, 3]})
    ['a', 'c', 'b']
    """
    if "chosen" in row:
        return [row["chosen"], row["rejected"]] if row["chosen"] != row["rejected"] else [row["chosen"]]
    keys = row["ranks"] if "ranks" in row else [-s for s in row["scores"]]
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    return list(dict.fromkeys(row["responses"][i] for i in order))


def strict_rankings(rows: Sequence[dict[str, Any]], k: int, count: int, seed: int) -> list[StrictRanking]:
    """`count` rankings of K responses.

    A row with more keeps K of them, evenly spaced from its best to its worst. A row with fewer borrows responses of
    other rows, which are ranked below its own in the order in which they are drawn. Rows that need not borrow come
    first; where there are fewer rows than `count`, they are used again.

    Raises:
        ValueError: There are not K different responses in all rows together.
    """
    pool = list(dict.fromkeys(r for row in rows for r in ordered_responses(row)))
    if len(pool) < k:
        raise ValueError(f"the rankings have {len(pool)} different responses; {k} are needed")
    rng = random.Random(seed)
    enough = [row for row in rows if len(ordered_responses(row)) >= k]
    fewer = [row for row in rows if len(ordered_responses(row)) < k]
    chosen = (enough + fewer)[:count]
    return [_ranking(chosen[i % len(chosen)], pool, k, rng) for i in range(count)]


def _ranking(row: dict[str, Any], pool: list[str], k: int, rng: random.Random) -> StrictRanking:
    own = ordered_responses(row)
    if len(own) >= k:
        places = [round(i * (len(own) - 1) / (k - 1)) for i in range(k)]
        return StrictRanking(row["prompt"], tuple(own[p] for p in places), 0)
    others = [r for r in pool if r not in set(own)]
    borrowed = rng.sample(others, k - len(own))
    return StrictRanking(row["prompt"], (*own, *borrowed), len(borrowed))
