"""Drawings of a few kinds of marks, as SVG for pages and as pixels for TensorBoard; no plotting library is needed.

Colours are names ("ink", "soft", "rule", "s0" to "s5"), which a page's style sheet gives their meaning, in light and
dark. The series are Okabe and Ito's colours, which can be told apart with any colour vision; shapes differ as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1a1d21",
    "soft": "#5b636d",
    "rule": "#dfe3e8",
    "s0": "#0072b2",
    "s1": "#d55e00",
    "s2": "#009e73",
    "s3": "#cc79a7",
    "s4": "#b8860b",
    "s5": "#56b4e9",
}
DARK = {
    "paper": "#14171b",
    "ink": "#e9ecef",
    "soft": "#a3acb6",
    "rule": "#343a41",
    "s0": "#56b4e9",
    "s1": "#ff8c42",
    "s2": "#2bc49a",
    "s3": "#e59ac4",
    "s4": "#f0e442",
    "s5": "#8ab6ff",
}
SHAPES = ("circle", "square", "triangle", "diamond")
SERIES = 6
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


def series_color(number: int) -> str:
    """Colour of a series."""
    return f"s{number % SERIES}"


def series_shape(number: int) -> str:
    """Shape of its dots."""
    return SHAPES[number % len(SHAPES)]


@dataclass(frozen=True)
class Line:
    """A polyline."""

    points: Sequence[Point]
    color: str = "ink"
    width: float = 1.5
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A mark of a series; `title` is what a pointer over it shows."""

    at: Point
    color: str = "s0"
    shape: str = "circle"
    size: float = 5.0
    title: str = ""


@dataclass(frozen=True)
class Label:
    """A text on one line; `at` is on its base line."""

    at: Point
    text: str
    color: str = "ink"
    anchor: Anchor = "start"
    size: float = 13.0
    bold: bool = False


@dataclass
class Drawing:
    """Marks in drawing order; y grows downwards, units are CSS pixels."""

    width: float
    height: float
    marks: list[Line | Dot | Label] = field(default_factory=list)


def svg(drawing: Drawing, title: str, standalone: bool = False, css_class: str = "") -> str:
    """An `<svg>` element with an accessible name.

    Args:
        drawing: What to draw.
        title: What a screen reader says.
        standalone: For a file of its own: with name space and colours.
        css_class: Class of the element.
    """
    size = f'viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}"'
    head = f' xmlns="http://www.w3.org/2000/svg" width="{_n(drawing.width)}"' if standalone else ""
    marks = "".join(_mark(mark) for mark in drawing.marks)
    style = _style() if standalone else ""
    return f'<svg{head} class="{escape(css_class)}" {size} role="img" aria-label="{escape(title)}">{style}{marks}</svg>'


def _style() -> str:
    def rules(colors: dict[str, str]) -> str:
        each = "".join(f".f-{n}{{fill:{c}}}.l-{n}{{stroke:{c}}}" for n, c in colors.items())
        return f"svg{{background:{colors['paper']}}}{each}"

    sheet = "text{font-family:system-ui,sans-serif}polyline{fill:none}"
    return f"<style>{sheet}{rules(LIGHT)}@media(prefers-color-scheme:dark){{{rules(DARK)}}}</style>"


def _mark(mark: Line | Dot | Label) -> str:
    if isinstance(mark, Line):
        dashes = ' stroke-dasharray="4 4"' if mark.dashed else ""
        look = f'class="l-{mark.color}" stroke-width="{_n(mark.width)}"{dashes}'
        return f'<polyline {look} points="{_points(mark.points)}"/>'
    if isinstance(mark, Dot):
        title = f"<title>{escape(mark.title)}</title>" if mark.title else ""
        return f'<path class="f-{mark.color}" d="{_outline(mark)}">{title}</path>'
    weight = ' font-weight="600"' if mark.bold else ""
    anchor = "" if mark.anchor == "start" else f' text-anchor="{mark.anchor}"'
    where = f'x="{_n(mark.at[0])}" y="{_n(mark.at[1])}" font-size="{_n(mark.size)}"'
    return f'<text class="f-{mark.color}" {where}{anchor}{weight}>{escape(mark.text)}</text>'


def _outline(dot: Dot) -> str:
    if dot.shape == "circle":
        (x, y), r = dot.at, _n(dot.size)
        return f"M{_n(x - dot.size)} {_n(y)}a{r} {r} 0 1 0 {_n(2 * dot.size)} 0a{r} {r} 0 1 0 {_n(-2 * dot.size)} 0z"
    first, *others = corners(dot)
    return f"M{_n(first[0])} {_n(first[1])}" + "".join(f"L{_n(x)} {_n(y)}" for x, y in others) + "z"


def corners(dot: Dot) -> list[Point]:
    """Corners of a dot that is no circle."""
    (x, y), r = dot.at, dot.size
    if dot.shape == "square":
        r *= 0.9
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if dot.shape == "triangle":
        return [(x, y - 1.2 * r), (x + 1.1 * r, y + 0.8 * r), (x - 1.1 * r, y + 0.8 * r)]
    return [(x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y)]


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"


def pixels(drawing: Drawing, scale: int = 2) -> NDArray[np.uint8]:
    """The drawing in light colours, [H, W, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (round(drawing.width * scale), round(drawing.height * scale)), LIGHT["paper"])
    pen = ImageDraw.Draw(image)
    for mark in drawing.marks:
        color = LIGHT[mark.color]
        if isinstance(mark, Line):
            points = [(x * scale, y * scale) for x, y in mark.points]
            if len(points) > 1:
                pen.line(points, fill=color, width=max(1, round(mark.width * scale)))
        elif isinstance(mark, Dot):
            _dot(pen, mark, color, scale)
        else:
            font: Any = ImageFont.load_default(mark.size * scale)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
            pen.text((mark.at[0] * scale, mark.at[1] * scale), mark.text, fill=color, font=font, anchor=anchor)
    return np.asarray(image)


def _dot(pen: Any, dot: Dot, color: str, scale: int) -> None:
    (x, y), r = dot.at, dot.size
    if dot.shape == "circle":
        pen.ellipse([scale * (x - r), scale * (y - r), scale * (x + r), scale * (y + r)], fill=color)
    else:
        pen.polygon([(a * scale, b * scale) for a, b in corners(dot)], fill=color)
