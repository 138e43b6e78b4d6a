"""What in a data card would mislead whoever trains on the data or reads the results: one line each, with its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlhf_lightning.data.card.counting import OTHERS, Summary, percent
from rlhf_lightning.data.card.split import NO_CATEGORY

ONE_LABELER = 0.95
"""Share of the labelled rows from which on they are one person's view."""
FEW_ROWS = 100
"""Below so many rows the 95 % interval of a share reaches 10 points to either side."""
_LEAST = 20
"""Rows below which nothing is said about shares."""
_EXPECTED = 5.0
"""None is found where five are expected: by chance that happens once in 150 times."""
_REPEATED = 0.1
_LONGER = 0.7


def shared_prompts(split: str, shared: int) -> list[str]:
    """A split that leaks.

    Args:
        split: The one that is measured on.
        shared: Different prompts of it that are training prompts too.
    """
    return [f"{split}: {shared} of its prompts are training prompts too; val/ metrics will flatter."] if shared else []


def near_prompts(split: str, near: int) -> list[str]:
    """A split that leaks in other words."""
    if not near:
        return []
    return [f"{split}: {near} of its prompts are nearly training prompts; val/ metrics will flatter."]


def cautions(split: str, card: Summary) -> list[str]:
    """What to know about a split that is trained on.

    Args:
        split: How it is called in messages, e.g. its configuration key.
        card: From `SplitStatistics.summary`.
    """
    found = (_labelers, _repeats, _length, _negatives, _flags, _preferred)
    return [f"{split}: {text}" for check in found for text in check(card)]


def few_rows(card: Summary) -> dict[str, dict[str, int]]:
    """Groups that are too small for a share measured on them to be trusted, and their rows, by what groups them."""
    groupings: dict[str, Mapping[str, int]] = {
        "category": {name: c["rows"] for name, c in card["categories"].items() if name != NO_CATEGORY},
        "source": card["sources"],
        "language": card["languages"],
        "labeler": card["labelers"],
        "labeler group": card["labeler_groups"],
        "flag": card["flags"],
    }
    small = {by: {g: n for g, n in groups.items() if n < FEW_ROWS and g != OTHERS} for by, groups in groupings.items()}
    return {by: groups for by, groups in small.items() if groups}


def _labelers(card: Summary) -> Iterator[str]:
    labelers: Mapping[str, int] = card["labelers"]
    labelled = sum(labelers.values())
    if labelled < _LEAST:
        return
    name, most = max(labelers.items(), key=lambda item: item[1])
    if name != OTHERS and most >= ONE_LABELER * labelled:
        share = percent(most, labelled)
        yield f"labeler {name!r} made {share} of its {labelled} labelled rows; what is learnt is that labeler's view."


def _repeats(card: Summary) -> Iterator[str]:
    again, rows = card["exact_duplicate_rows"], card["rows"]
    if rows >= _LEAST and again > _REPEATED * rows:
        yield f"{again} of {rows} rows repeat the texts of another row; they count more than once."


def _length(card: Summary) -> Iterator[str]:
    decided = card.get("pairs", 0) - card.get("tied_pairs", 0)
    wins = card.get("longer_wins")
    if decided >= _LEAST and wins is not None and max(wins, 1 - wins) >= _LONGER:
        which = "longer" if wins >= _LONGER else "shorter"
        share = percent(max(wins, 1 - wins), 1)
        yield f"the {which} response wins {share} of {decided} pairs; length alone gets that far, and will be learnt."


def _negatives(card: Summary) -> Iterator[str]:
    if card["kind"] != "rankings":
        return
    if lacking := _lacking(card, "toxic_negatives"):
        yield (
            f"no ranking in {lacking} puts a response with a toxic word below one without; a reward model cannot learn "
            "there that it is worse."
        )


def _flags(card: Summary) -> Iterator[str]:
    if lacking := _lacking(card, "flagged"):
        yield f"no row is flagged in {lacking}; nothing is learnt there from flagged rows, nor can it be measured."


def _lacking(card: Summary, count: str) -> str:
    """Categories without any, where the other categories' share would make five; most of these must have some."""
    categories = {name: c for name, c in card["categories"].items() if name != NO_CATEGORY}
    having = sum(c[count] > 0 for c in categories.values())
    lacking = []
    for name, own in categories.items():
        others = [c for other, c in categories.items() if other != name]
        share = sum(c[count] for c in others) / max(1, sum(c["rows"] for c in others))
        if not own[count] and own["rows"] * share >= _EXPECTED:
            lacking.append(f"category {name!r} ({own['rows']} rows; in the others it is {percent(share, 1)})")
    if not lacking or 2 * having < len(categories):
        return ""  # what few categories have is what they are about
    return " and ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")


def _preferred(card: Summary) -> Iterator[str]:
    above, below = card.get("toxic_preferred", 0), card.get("toxic_negatives", 0)
    if above >= _LEAST and above > below:
        yield (
            f"responses with a toxic word stand above one without in {above} rankings and below one in {below}; "
            "a reward model will learn to prefer them."
        )
