"""`python -m rlhf_lightning report DIR`: one page, the same as Markdown, and in TensorBoard."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_lightning.bounds import check_number
from rlhf_lightning.commands import parse_settings
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.report.assembling import assemble
from rlhf_lightning.evaluation.report.blocks import Report
from rlhf_lightning.evaluation.report.drawing import pixels, svg
from rlhf_lightning.evaluation.report.inputs import read_inputs
from rlhf_lightning.evaluation.report.markdown import FIGURES, markdown, section_markdown
from rlhf_lightning.evaluation.report.page import SMALL, WIDE, page
from rlhf_lightning.whole_files import write_whole

TENSORBOARD = "report_tensorboard"


@dataclass(frozen=True)
class ReportSettings:
    """What `report` can be told; the directory may also stand right after the command.

    Args:
        directory: The `out` of an evaluation, or a directory that holds finished runs of stages.
        out: Where report.html, report.md, report_figures/ and report_tensorboard/ go; by default the same directory.
        title: Of the page; by default the names of the models.
        runs: Run directories of stages by name, for learning curves and data cards, beside those of the models.
        samples: Prompts that are shown side by side.
        tensorboard: Write texts and figures for TensorBoard too.
    """

    directory: str
    out: str | None = None
    title: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    samples: int = 200
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_number("samples", self.samples, at_least=1)


def main(args: Sequence[str]) -> int:
    """Write the report and say where it is."""
    positional = ["--directory", args[0]] if args and not args[0].startswith("-") else []
    settings = parse_settings(ReportSettings, "report", [*positional, *args[len(positional) // 2 :]])
    print(f"Written: {write_report(settings)} (and report.md, {FIGURES}/ beside it)")
    return 0


def write_report(settings: ReportSettings) -> Path:
    """Write everything.

    Returns:
        The HTML page.

    Raises:
        UserError: Nothing to report, a damaged file, or a place that cannot be written.
    """
    directory = Path(settings.directory).expanduser()
    report = assemble(read_inputs(directory, settings.runs), settings.samples, settings.title)
    out = Path(settings.out).expanduser() if settings.out is not None else directory
    try:
        (out / FIGURES).mkdir(parents=True, exist_ok=True)
        for figure in report.figures:
            drawn = svg(figure.draw(SMALL if figure.small else WIDE), figure.alt, standalone=True)
            write_whole(out / FIGURES / f"{figure.name}.svg", drawn)
        write_whole(out / "report.md", markdown(report))
        write_whole(out / "report.html", page(report))
        if settings.tensorboard:
            _write_tensorboard(out / TENSORBOARD, report)
    except OSError as error:
        raise UserError(f"out: cannot write to {str(out)!r}: {error.strerror}. Choose another directory.") from error
    return out / "report.html"


def _write_tensorboard(directory: Path, report: Report) -> None:
    """A text for each section, an image for each figure; what an earlier report left there is replaced."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(directory, ignore_errors=True)
    with SummaryWriter(str(directory)) as writer:
        for number, section in enumerate(report.sections):
            writer.add_text(f"report/{number:02d} {section.title}", section_markdown(section, with_figures=False))
        for figure in report.figures:
            writer.add_image(
                f"report/{figure.name}", pixels(figure.draw(SMALL if figure.small else WIDE)), dataformats="HWC"
            )
