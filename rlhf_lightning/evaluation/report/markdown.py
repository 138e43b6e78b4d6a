"""The report as Markdown, with its figures as files beside it."""

from __future__ import annotations

from typing import Any

from rlhf_lightning.evaluation.report.blocks import (
    Block,
    Code,
    Figure,
    Folded,
    Report,
    Samples,
    Section,
    Table,
    Text,
    Warnings,
)

FIGURES = "report_figures"
_SAMPLES = 5


def markdown(report: Report) -> str:
    """The whole report; figures are links to `report_figures/<name>.svg`."""
    head = f"# {_plain(report.title)}\n\n{_plain(report.subtitle)}"
    return "\n\n".join([head, *(section_markdown(section) for section in report.sections)]) + "\n"


def section_markdown(section: Section, with_figures: bool = True) -> str:
    """One section.

    Args:
        section: The section.
        with_figures: Link to figures; without, their numbers stand there.
    """
    blocks = (_block(block, with_figures) for block in section.blocks)
    return "\n\n".join([f"## {_plain(section.title)}", *(block for block in blocks if block)])


def _block(block: Block, with_figures: bool) -> str:
    if isinstance(block, Text):
        return _plain(block.text)
    if isinstance(block, Warnings):
        return "**Be careful:**\n\n" + "\n".join(f"- {_plain(item)}" for item in block.items)
    if isinstance(block, Code):
        return f"### {block.title}\n\n```text\n{block.text}\n```"
    if isinstance(block, Figure):
        if with_figures:
            return f"![{_plain(block.alt).replace(']', ')')}]({FIGURES}/{block.name}.svg)"
        return "" if block.numbers is None else Table(block.title, block.numbers.columns, block.numbers.rows).markdown()
    if isinstance(block, Folded):
        return "\n\n".join(table.markdown() for table in block.tables)
    if isinstance(block, Samples):
        return "\n\n".join(_sample(row, block) for row in block.rows[:_SAMPLES])
    return block.markdown()


def _sample(row: dict[str, Any], samples: Samples) -> str:
    there = [m for m in samples.models if m in row["responses"]]
    rows: list[list[str | int | float | None]] = [
        [m, _plain(row["responses"][m]["text"]), row["responses"][m]["about"]] for m in there
    ]
    return Table(_plain(row["prompt"]), ["model", "response", ""], rows).markdown()


def _plain(text: str) -> str:
    """Text of models and files on one line, without what Markdown or HTML would take for its own."""
    for sign in ("\\", "`", "*", "_", "#", "[", "<"):
        text = text.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return " ".join(text.split())
