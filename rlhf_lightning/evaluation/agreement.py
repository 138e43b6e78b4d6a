"""How far two judges agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def agreement(one: Sequence[Hashable], two: Sequence[Hashable]) -> float | None:
    """Share of verdicts that are the same; None without any.

    >>> agreement(["first", "tie"], ["first", "second"])
    0.5
    """
    return sum(a == b for a, b in zip(one, two, strict=True)) / len(one) if one else None


def kappa(one: Sequence[Hashable], two: Sequence[Hashable]) -> float | None:
    """Cohen's κ (1960): agreement beyond what the two would have by chance with the verdicts they each give.

    None without verdicts, and where both always say the same one thing, so that chance explains everything.
    """
    observed = agreement(one, two)
    if observed is None:
        return None
    ours, theirs = Counter(one), Counter(two)
    chance = sum(ours[verdict] * theirs[verdict] for verdict in ours) / len(one) ** 2
    return None if chance == 1 else (observed - chance) / (1 - chance)
