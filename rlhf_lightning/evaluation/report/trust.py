"""How far to trust the reward model: findings, calibration, slices, labelers, over-optimisation."""

from __future__ import annotations

from functools import partial
from typing import Any

from rlhf_lightning.evaluation.report.blocks import (
    Figure,
    Folded,
    Section,
    Table,
    Text,
    Warnings,
    bounds,
    mapping,
    percents,
    sequence,
)
from rlhf_lightning.evaluation.report.charts import Bar, Mark, intervals, plane, reliability
from rlhf_lightning.evaluation.report.inputs import Inputs
from rlhf_lightning.evaluation.report.preference import KL_AXIS, without_empty_columns

_MOST_BARS = 16


def trust(inputs: Inputs) -> Section | None:
    """The reward model, where the evaluation has a trust report."""
    report = mapping(inputs.results.get("trust"))
    section = Section("trust", "Can the reward model be trusted?")
    if accuracy := percents(report.get("accuracy")):
        pairs = mapping(report.get("accuracy")).get("pairs")
        section.blocks.append(Text(f"It orders {accuracy} of {pairs} held-out pairs as the labelers did."))
    cautions = []
    if shared := shared_prompts(report):
        cautions.append(f"{shared} prompts of these rankings are training prompts too, so this flatters the model.")
    findings = [mapping(f) for f in sequence(report.get("findings"))]
    cautions += [" ".join(str(f[k]) for k in ("what", "evidence", "todo") if f.get(k)) for f in findings]
    if cautions:
        section.blocks.append(Warnings(cautions))
    section.blocks += [block for block in (_calibration(report), _slice_figure(report)) if block]
    section.blocks += [table for table in (_labelers(report),) if table.rows]
    section.blocks += _curves(report)
    missing: list[list[Any]] = [[k, str(v)] for k, v in mapping(report.get("left_out")).items()]
    left_out = Table("Not in this report", ["part", "why"], missing)
    if tables := [t for t in (_slices(report), _length(report), _shifts(report), left_out) if t.rows]:
        section.blocks.append(Folded(", ".join(table.title for table in tables), tables))
    return section if section.blocks else None


def shared_prompts(report: dict[str, Any]) -> int:
    """Held-out prompts that are training prompts too; the command keeps their number in `made_from`."""
    found = mapping(report.get("made_from")) | report
    shared = found.get("held_out_prompts_in_training")
    return shared if isinstance(shared, int) else 0


def _calibration(report: dict[str, Any]) -> Figure | None:
    found = mapping(report.get("calibration"))
    bins = [b for b in map(mapping, sequence(found.get("curve"))) if {"confidence", "accuracy", "pairs"} <= b.keys()]
    if not bins:
        return None
    ece = found.get("ece")
    title = "Calibration" + (f" (expected error {100 * ece:.1f} points)" if isinstance(ece, float) else "")
    rows: list[list[Any]] = [[b["confidence"], b["accuracy"], b.get("error"), b["pairs"]] for b in bins]
    numbers = Table("Numbers", ["stated", "seen", "standard error", "pairs"], rows)
    alt = "Stated probability against the share of pairs that labelers saw so; the dashed line is a calibrated model."
    return Figure("calibration", title, alt, partial(reliability, bins), numbers)


def _named(one: dict[str, Any]) -> str:
    return f"{one.get('dimension')}: {one.get('value')}"


def _slice_figure(report: dict[str, Any]) -> Figure | None:
    bars = []
    for one in map(mapping, sequence(report.get("slices"))):
        if (found := bounds(one.get("accuracy"))) is not None:
            series = 1 if one.get("worse") or one.get("starved") else 0
            bars.append(Bar(_named(one), *found, str(percents(one.get("accuracy"))), series))
    if len(bars) < 2:
        return None
    bars = sorted(bars, key=lambda bar: bar.mean)[:_MOST_BARS]
    alt = "Accuracy of slices, the lowest first: " + "; ".join(f"{b.name} {b.text}" for b in bars)
    overall = bounds(report.get("accuracy"))
    draw = partial(_slice_bars, bars, overall[0] if overall else None)
    title = "Where it is least accurate"
    return Figure("slices", title, alt, draw, None)


def _slice_bars(bars: list[Bar], overall: float | None, width: float) -> Any:
    axis = "accuracy over pairs; squares: worse than the rest, or hardly trained on; dashed: all pairs"
    return intervals(bars, width, axis if width > 480 else "accuracy over pairs", overall, percent=True)


def _slices(report: dict[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for one in map(mapping, sequence(report.get("slices"))):
        accuracy, lower = mapping(one.get("accuracy")), bounds(one.get("lower"))
        marks = [word for word, key in (("worse", "worse"), ("hardly trained on", "starved")) if one.get(key)]
        rows.append(
            [
                str(one.get("dimension")),
                str(one.get("value")),
                percents(accuracy),
                accuracy.get("pairs"),
                None if lower is None else f"{100 * lower[0]:+.1f}".replace("-", "−"),
                one.get("train_rows"),
                ", ".join(marks) or None,
            ]
        )
    columns = ["by", "slice", "accuracy", "pairs", "points to the rest", "training rows", ""]
    return without_empty_columns(Table("Slices", columns, rows))


def _labelers(report: dict[str, Any]) -> Table:
    keys = ("model", "others", "among_others", "longer", "longer_of_others")
    rows: list[list[Any]] = [
        [str(one.get("name")), *(percents(one.get(k)) for k in keys), one.get("fault") or None]
        for one in map(mapping, sequence(report.get("labelers")))
    ]
    columns = [
        "labeler",
        "model agrees",
        "others agree",
        "others among themselves",
        "prefers longer",
        "others do",
        "fault",
    ]
    return without_empty_columns(Table("Labelers", columns, rows))


def _length(report: dict[str, Any]) -> Table:
    found = mapping(report.get("length"))
    names = {
        "model_longer": "the model scores the longer one higher",
        "labelers_longer": "labelers prefer the longer one",
        "accuracy_longer_preferred": "accuracy where labelers prefer the longer one",
        "accuracy_shorter_preferred": "accuracy where they prefer the shorter one",
    }
    rows: list[list[Any]] = [[text, percents(found.get(key))] for key, text in names.items() if found.get(key)]
    return Table("Length", ["", "share of pairs"], rows)


def _shifts(report: dict[str, Any]) -> Table:
    rows: list[list[Any]] = [
        [
            one.get("policy"),
            one.get("of"),
            one.get("ks"),
            one.get("ks_by_chance"),
            percents(one.get("above_most")),
            "alarm" if one.get("alarm") else None,
        ]
        for one in map(mapping, sequence(report.get("distribution")))
    ]
    columns = ["model", "of", "KS distance", "by chance", "above 99 % of training", ""]
    note = "How far the models' outputs are from the responses that the reward model was trained on."
    return Table("Outputs beside training responses", columns, rows, note)


def _curves(report: dict[str, Any]) -> list[Figure | Text]:
    found: list[Figure | Text] = []
    for number, one in enumerate(map(mapping, sequence(report.get("overoptimisation")))):
        marks = []
        for point in map(mapping, sequence(one.get("points"))):
            for series, key in enumerate(("proxy", "gold")):
                value = bounds(point.get(key))
                if value is not None and isinstance(point.get("kl"), int | float):
                    marks.append(Mark(f"{point.get('name')} ({key})", float(point["kl"]), *value, series))
        if len(marks) < 2:
            continue
        title = f"Over-optimisation: proxy and gold against KL ({one.get('of')})"
        rows: list[list[Any]] = [[m.name, m.x, m.y, m.low, m.high] for m in marks]
        numbers = Table("Numbers", ["point", "KL", "mean", "low", "high"], rows)
        alt = f"{title}: " + "; ".join(f"{m.name} {m.y:.3g} at {m.x:.3g}" for m in marks)
        found.append(Figure(f"overoptimisation_{number}", title, alt, partial(_parting, marks), numbers))
        parting = mapping(one.get("parting"))
        if parting:
            sentence = {
                "falls": f"Past {parting.get('peak')} gold falls while the proxy still rises.",
                "stalls": f"Past {parting.get('peak')} the proxy rises and gold does not.",
                "together": "Proxy and gold cannot be told to part.",
            }
            found.append(Text(sentence.get(str(parting.get("verdict")), "")))
    return found


def _parting(marks: list[Mark], width: float) -> Any:
    y_title = "circles: proxy (the reward model); squares: gold"
    return plane(marks, width, KL_AXIS, y_title, joined=True, labels=False, root=True)
