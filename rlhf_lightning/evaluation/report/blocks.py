"""What a report consists of; pages, Markdown and TensorBoard each show the same blocks in their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_lightning.data.card.tables import Cell, Table
from rlhf_lightning.evaluation.report.drawing import Drawing


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Warnings:
    """What to be careful about, one item each."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Commands, or settings."""

    title: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A chart, and the numbers that it shows."""

    name: str
    """Of its file."""
    title: str
    alt: str
    """What it shows, in words."""
    draw: Callable[[float], Drawing]
    """For a width in pixels."""
    numbers: Table | None = None
    small: bool = False
    """Several stand beside one another."""


@dataclass(frozen=True)
class Folded:
    """Tables that are there for who asks: closed on a page."""

    title: str
    tables: Sequence[Table]


@dataclass(frozen=True)
class Samples:
    """Responses of all models to the same prompts."""

    models: Sequence[str]
    rows: Sequence[dict[str, Any]]
    """Each `id`, `prompt`, `category` and `responses`: by model a text and what is known about it."""
    total: int
    """Prompts of which these are some."""


Block = Text | Warnings | Code | Figure | Table | Folded | Samples


@dataclass
class Section:
    """A part of the report with a heading."""

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str
    subtitle: str
    sections: list[Section]

    @property
    def figures(self) -> list[Figure]:
        """In the order of the page."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


def interval(value: Any, digits: int = 3) -> str | None:
    """A mean with its interval, as text; None where there is none.

    >>> interval({"mean": 0.5, "low": 0.41, "high": 0.6}, 2), interval({"value": 1.0, "low": None, "high": None}, 1)
    ('0.50 [0.41, 0.60]', '1.0')
    """
    found = bounds(value)
    if found is None:
        return None
    # Adding zero turns the rounded "-0.00" into "0.00".
    mean, low, high = (f"{round(v, digits) + 0.0:.{digits}f}" for v in found)
    return (mean if found[1] == found[2] else f"{mean} [{low}, {high}]").replace("-", "−")


def percents(value: Any) -> str | None:
    """A share with its interval, in percent.

    >>> percents({"mean": 0.5, "low": 0.4, "high": 0.6})
    '50.0 % [40.0, 60.0]'
    """
    found = bounds(value)
    if found is None:
        return None
    mean, low, high = (100 * v for v in found)
    return f"{mean:.1f} %" if low == high else f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def bounds(value: Any) -> tuple[float, float, float] | None:
    """Mean, low and high of what a result calls an interval, a share or an estimate, or of a bare number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), float(value), float(value)
    if not isinstance(value, dict):
        return None
    mean = value.get("mean", value.get("value"))
    if not isinstance(mean, int | float):
        return None
    low, high = value.get("low"), value.get("high")
    return float(mean), float(mean if low is None else low), float(mean if high is None else high)


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one: results may lack any part."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


__all__ = [
    "Block", "Cell", "Code", "Figure", "Folded", "Report", "Samples", "Section", "Table", "Text", "Warnings",
    "bounds", "interval", "mapping", "percents", "sequence",
]  # fmt: skip
