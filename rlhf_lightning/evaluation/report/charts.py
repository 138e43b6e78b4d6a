"""The report's kinds of charts: intervals in rows, points in a plane, curves. Each is drawn for a given width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rlhf_lightning.evaluation.report.axes import Scale, number, spanning, ticks, x_axis, y_axis
from rlhf_lightning.evaluation.report.drawing import (
    Dot,
    Drawing,
    Label,
    Line,
    series_color,
    series_shape,
)

_NARROW = 480
_CHARACTER = 7.2
"""Width of a character of 13 px text, a little more than most fonts need."""


@dataclass(frozen=True)
class Bar:
    """A value with its interval, in a row of its own."""

    name: str
    mean: float
    low: float
    high: float
    text: str
    """What stands at the end of the row."""
    series: int = 0


def intervals(
    bars: Sequence[Bar], width: float, axis: str, reference: float | None = None, percent: bool = False
) -> Drawing:
    """One row each: a dot, a line from low to high, and the numbers; where it is narrow, names stand above."""
    narrow = width < _NARROW
    row = 54.0 if narrow else 36.0
    left = 8.0 if narrow else 16 + _CHARACTER * max(len(_short(b.name)) for b in bars)
    right = width - 8 if narrow else width - 16 - _CHARACTER * max(len(b.text) for b in bars)
    bottom = 12 + row * len(bars)
    known = [v for b in bars for v in (b.low, b.high)] + ([] if reference is None else [reference])
    scale = spanning(known, left + 8, right - 8)
    drawing = Drawing(width, bottom + 48)
    drawing.marks += x_axis(scale, 6, bottom, axis, 4 if narrow else 6, percent)
    if reference is not None:
        drawing.marks.append(Line([(scale(reference), 6), (scale(reference), bottom)], "soft", 1.5, True))
    for i, bar in enumerate(bars):
        y = 12 + row * (i + 0.5) + (10 if narrow else 0)
        color = series_color(bar.series)
        if narrow:  # the mean alone: its interval is drawn, and stands in the table
            mean = bar.text.partition(" [")[0]
            room = int((right - left) / _CHARACTER - len(mean) - 2)
            drawing.marks.append(Label((left, y - 16), _short(bar.name, room), "ink", "start", 13, True))
            drawing.marks.append(Label((right, y - 16), mean, "ink", "end"))
        else:
            drawing.marks.append(Label((0, y + 4), _short(bar.name), "ink", "start", 13, True))
            drawing.marks.append(Label((right + 12, y + 4), bar.text, "ink"))
        drawing.marks.append(Line([(scale(bar.low), y), (scale(bar.high), y)], color, 3))
        title = f"{bar.name}: {bar.text}"
        drawing.marks.append(Dot((scale(bar.mean), y), color, series_shape(bar.series), 6, title))
    return drawing


@dataclass(frozen=True)
class Mark:
    """A point with an interval in y."""

    name: str
    x: float
    y: float
    low: float
    high: float
    series: int = 0


def plane(
    marks: Sequence[Mark],
    width: float,
    x_title: str,
    y_title: str,
    joined: bool = False,
    labels: bool = True,
    root: bool = False,
) -> Drawing:
    """Points with vertical intervals and their names.

    Args:
        marks: Points.
        width: Of the drawing.
        x_title: Under the x axis.
        y_title: Above the y axis.
        joined: Join the points of a series in the order of x.
        labels: Write names beside the points.
        root: Square-root scale of x.
    """
    height = 320.0 if width >= _NARROW else 290.0
    y = spanning([v for m in marks for v in (m.low, m.high, m.y)], height - 52, 34, 0.08)
    left = 14 + 7 * max(len(number(t)) for t in ticks(y.low, y.high, 4))
    x = spanning([m.x for m in marks], left + 10, width - 12, 0.1)
    if root:
        most = max(m.x for m in marks)
        x = Scale(min(-0.004 * most, *(1.2 * m.x for m in marks)), 1.2 * most or 1.0, left + 10, width - 12, root=True)
    drawing = Drawing(width, height)
    drawing.marks += y_axis(y, left, width, y_title)
    drawing.marks += x_axis(x, height - 56, height - 52, x_title, 4 if width < _NARROW else 6)
    for number_ in sorted({m.series for m in marks}) if joined else []:
        own = sorted((m for m in marks if m.series == number_), key=lambda m: m.x)
        drawing.marks.append(Line([(x(m.x), y(m.y)) for m in own], series_color(number_), 1.5))
    for mark in marks:
        color = series_color(mark.series)
        drawing.marks.append(Line([(x(mark.x), y(mark.low)), (x(mark.x), y(mark.high))], color, 2.5))
        title = f"{mark.name}: {mark.y:.3g} at {mark.x:.3g}"
        drawing.marks.append(Dot((x(mark.x), y(mark.y)), color, series_shape(mark.series), 6, title))
    if labels:
        drawing.marks += _names(marks, x, y, width)
    return drawing


def _names(marks: Sequence[Mark], x: Scale, y: Scale, width: float) -> list[Label]:
    """Names beside points, on the side where there is room, moved apart where they would cover one another."""
    found: list[Label] = []
    taken: list[tuple[float, float, float]] = []
    for mark in sorted(marks, key=lambda m: y(m.y)):
        text = _short(mark.name, 18)
        size = _CHARACTER * len(text)
        right = [m for m in marks if 0 < x(m.x) - x(mark.x) < 12 + size and abs(y(m.y) - y(mark.y)) < 12]
        to_right = x(mark.x) + 12 + size < width and (not right or x(mark.x) - 12 - size < x.start)
        start = x(mark.x) + 12 if to_right else x(mark.x) - 12 - size
        at = y(mark.y) + 4
        while any(abs(at - other) < 15 and start < end and begin < start + size for begin, end, other in taken):
            at += 15
        taken.append((start, start + size, at))
        where = (x(mark.x) + 12 if to_right else x(mark.x) - 12, at)
        found.append(Label(where, text, "ink", "start" if to_right else "end", 13, True))
    return found


def reliability(bins: Sequence[Mapping[str, float]], width: float) -> Drawing:
    """Stated probability against frequency, with the diagonal of a calibrated model."""
    side = min(width, 420.0)
    x, y = Scale(0, 1, 52, side - 12), Scale(0, 1, side - 52, 34)
    drawing = Drawing(width, side)
    drawing.marks += y_axis(y, 52, side - 12, "share that the labelers saw so")
    drawing.marks += x_axis(x, side - 56, side - 52, "stated probability that a response is better")
    drawing.marks.append(Line([(x(0), y(0)), (x(1), y(1))], "soft", 1.5, True))
    drawing.marks.append(Line([(x(b["confidence"]), y(b["accuracy"])) for b in bins], "s0", 1.5))
    for b in bins:
        error = 1.96 * (b.get("error") or 0.0)
        ends = [max(0.0, b["accuracy"] - error), min(1.0, b["accuracy"] + error)]
        drawing.marks.append(Line([(x(b["confidence"]), y(v)) for v in ends], "s0", 2.5))
        title = f"stated {b['confidence']:.2f}, seen {b['accuracy']:.2f}, {b['pairs']:.0f} pairs"
        drawing.marks.append(Dot((x(b["confidence"]), y(b["accuracy"])), "s0", "circle", 5, title))
    return drawing


@dataclass(frozen=True)
class Curve:
    """Values by step."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def curves(found: Sequence[Curve], width: float, title: str, height: float = 190.0) -> Drawing:
    """Curves over steps; names stand in a line under the axis where there are several."""
    known = [(s, v) for c in found for s, v in zip(c.steps, c.values, strict=True) if math.isfinite(v)]
    several = len(found) > 1
    bottom = height - (60 if several else 40)
    y = spanning([v for _, v in known], bottom, 36, 0.08)
    left = 14 + 7 * max(len(number(t)) for t in ticks(y.low, y.high, 3))
    steps = [s for s, _ in known] or [0.0]
    x = Scale(min(steps), max(max(steps), min(steps) + 1), left + 4, width - 12)
    drawing = Drawing(width, height)
    drawing.marks += y_axis(y, left, width, "", 3)
    drawing.marks.append(Label((0, 15), title, "ink", "start", 13, True))
    drawing.marks += [Label((x(t), bottom + 18), number(t), "soft", "middle", 12) for t in ticks(x.low, x.high, 3)]
    legend = left
    for i, curve in enumerate(found):
        color = series_color(i)
        for part in _unbroken(curve):
            points = [(x(s), y(v)) for s, v in part]
            drawing.marks.append(Line(points, color, 2, i == 1) if len(points) > 1 else Dot(points[0], color, size=3))
        if several:
            drawing.marks.append(Line([(legend, height - 10), (legend + 16, height - 10)], color, 2, i == 1))
            drawing.marks.append(Label((legend + 22, height - 6), curve.name, "soft", "start", 12))
            legend += 40 + 7 * len(curve.name)
    return drawing


def _unbroken(curve: Curve) -> list[list[tuple[float, float]]]:
    """Stretches of a curve between values that are no numbers."""
    parts: list[list[tuple[float, float]]] = [[]]
    for step, value in zip(curve.steps, curve.values, strict=True):
        if math.isfinite(value):
            parts[-1].append((step, value))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def thinned(steps: Sequence[float], values: Sequence[float], most: int = 240) -> tuple[list[float], list[float]]:
    """At most so many points: means of equal stretches, so that no stretch is left out."""
    if len(steps) <= most:
        return list(steps), list(values)
    bounds = [round(i * len(steps) / most) for i in range(most + 1)]
    pieces = [(a, b) for a, b in pairwise(bounds) if b > a]
    return [steps[b - 1] for _, b in pieces], [sum(values[a:b]) / (b - a) for a, b in pieces]


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
