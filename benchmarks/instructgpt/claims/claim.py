"""A claim and its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_lightning.evaluation.intervals import Interval

Verdict = Literal["met", "not met", "undecided", "no data"]


@dataclass(frozen=True)
class Claim:
    """What was claimed, whether the records bear it out, and the numbers."""

    experiment: str
    statement: str
    verdict: Verdict
    reason: str
    """One or two sentences with the numbers that decide."""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    """A table."""
    numbers: dict[str, Any] = field(default_factory=dict)


def no_data(experiment: str, statement: str, what: str) -> Claim:
    """A claim whose runs are not there yet."""
    return Claim(experiment, statement, "no data", f"Missing: {what}.")


def above(interval: Interval, bound: float) -> Verdict:
    """Whether a number is above a bound, by its interval.

    >>> above(Interval(0.9, 0.85, 0.95), 0.8), above(Interval(0.9, 0.7, 1.1), 0.8), above(Interval(0.5, 0.3, 0.7), 0.8)
    ('met', 'undecided', 'not met')
    """
    if interval.low >= bound:
        return "met"
    return "not met" if interval.high < bound else "undecided"


def within(interval: Interval, margin: float) -> Verdict:
    """Whether a difference is at most `margin` either way, by its interval.

    >>> within(Interval(0.01, -0.03, 0.04), 0.05), within(Interval(0.04, 0.01, 0.07), 0.05)
    ('met', 'undecided')
    >>> within(Interval(0.1, 0.06, 0.14), 0.05)
    'not met'
    """
    if -margin <= interval.low and interval.high <= margin:
        return "met"
    return "not met" if interval.low > margin or interval.high < -margin else "undecided"


def worst(verdicts: list[Verdict]) -> Verdict:
    """Of several parts that must all hold.

    >>> worst(["met", "undecided"]), worst(["undecided", "not met"])
    ('undecided', 'not met')
    """
    order: list[Verdict] = ["no data", "not met", "undecided", "met"]
    return min(verdicts, key=order.index)
