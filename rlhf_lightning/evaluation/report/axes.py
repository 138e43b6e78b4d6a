"""Scales and axes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rlhf_lightning.evaluation.report.drawing import Label, Line


@dataclass(frozen=True)
class Scale:
    """Numbers to places: [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float
    root: bool = False
    """Places go by the (signed) square root of numbers, which is how rewards go with KL (arXiv 2210.10760)."""

    def __call__(self, value: float) -> float:
        low, high, at = (self._placed(v) for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def _placed(self, value: float) -> float:
        return math.copysign(math.sqrt(abs(value)), value) if self.root else value

    def ticks(self, about: int) -> list[float]:
        """Round numbers, roughly so many; on a square-root scale roughly evenly placed ones."""
        if not self.root:
            return ticks(self.low, self.high, about)
        top = math.sqrt(max(self.high, 0.0))
        found = [0.0] if self.low <= 0 else []
        for i in range(1, about + 1):
            value = float(f"{(i * top / about) ** 2:.1g}")
            if self.low <= value <= self.high and value not in found:
                found.append(value)
        return found


def spanning(values: Iterable[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale over all finite values, with a margin on either side."""
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(known), max(known)
    pad = margin * (high - low) or 0.5 * abs(high) or 0.5
    return Scale(low - pad, high + pad, start, end)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers in [low, high], roughly so many.

    >>> ticks(0.0, 1.0, 4), ticks(-1.7, 4.2, 3)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 2.0, 4.0])
    """
    raw = (high - low) / max(1, about)
    power: float = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.8)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's text.

    >>> number(0.25), number(12000.0), number(-3.0)
    ('0.25', '12k', '−3')
    """
    text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
    return text.replace("-", "−")


def x_axis(
    scale: Scale, top: float, bottom: float, title: str, about: int = 5, percent: bool = False
) -> list[Line | Label]:
    """Vertical rules with numbers under them, and a title under those."""
    marks: list[Line | Label] = []
    for value in scale.ticks(about):
        x = scale(value)
        marks.append(Line([(x, top), (x, bottom)], "rule", 1))
        text = f"{100 * value:.0f} %" if percent else number(value)
        marks.append(Label((x, bottom + 18), text, "soft", "middle", 12))
    marks.append(Label(((scale.start + scale.end) / 2, bottom + 38), title, "soft", "middle", 12))
    return marks


def y_axis(scale: Scale, left: float, right: float, title: str, about: int = 4) -> list[Line | Label]:
    """Horizontal rules with numbers to their left, and a title above."""
    marks: list[Line | Label] = []
    for value in ticks(scale.low, scale.high, about):
        y = scale(value)
        marks.append(Line([(left, y), (right, y)], "rule", 1))
        marks.append(Label((left - 8, y + 4), number(value), "soft", "end", 12))
    marks.append(Label((0, 14), title, "soft", "start", 12))
    return marks
