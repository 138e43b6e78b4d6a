"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf_lightning.evaluation.report.blocks import Block, Cell, Figure, Report, Samples
from rlhf_lightning.evaluation.report.drawing import DARK, LIGHT, svg

_HERE = Path(__file__).parent
WIDE, NARROW, SMALL = 850.0, 330.0, 340.0
"""Widths in pixels for which figures are drawn: for screens, phones, and several beside one another."""
STATIC_SAMPLES = 5
"""Samples in the page itself, for readers without JavaScript and for printing; the script shows all."""


def page(report: Report) -> str:
    """The HTML text."""
    return str(_environment().get_template("page.html.jinja").render(report=report, kind=_kind))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        figure=_figure,
        embedded=_embedded,
        cell=_cell,
        split=_split,
        numeric=_numeric,
        colors=_colors(),
        STATIC=STATIC_SAMPLES,
    )
    environment.globals.update(style=_file("page.css"), script=_file("page.js"))
    return environment


def _file(name: str) -> Markup:
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _colors() -> dict[str, Markup]:
    each = {"light": LIGHT, "dark": DARK}
    return {name: Markup("".join(f"--{n}:{c};" for n, c in colors.items())) for name, colors in each.items()}


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


def _figure(figure: Figure) -> Markup:
    if figure.small:
        return Markup(svg(figure.draw(SMALL), figure.alt))
    both = ((WIDE, "wide"), (NARROW, "narrow"))
    return Markup("".join(svg(figure.draw(width), figure.alt, css_class=name) for width, name in both))


def _embedded(samples: Samples) -> Markup:
    """JSON that cannot end its script element, whatever the models wrote."""
    value: dict[str, Any] = {"models": list(samples.models), "rows": list(samples.rows)}
    text = json.dumps(value, ensure_ascii=False)
    for sign, escaped in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(sign, escaped)
    return Markup(text)


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return (f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}").replace("-", "−")
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else value


def _split(text: str) -> tuple[str, str]:
    """A number and the interval after it, which a table writes smaller and below."""
    number, bracket, rest = text.partition(" [")
    return (number, f"[{rest}") if bracket and rest.endswith("]") and _starts(number) else (text, "")


def _numeric(rows: list[list[Cell]], column: int) -> bool:
    """Whether a column holds numbers (or texts that begin like one), and so is aligned to the right."""
    known = [row[column] for row in rows if column < len(row) and row[column] not in (None, "", "baseline", "·")]
    return bool(known) and all(isinstance(v, int | float) or (isinstance(v, str) and _starts(v)) for v in known)


def _starts(text: str) -> bool:
    return text.lstrip("−+(").replace(".", "", 1)[:1].isdigit() and len(text) < 40
