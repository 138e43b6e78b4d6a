"""The trust report for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.evaluation.intervals import Interval
from rlhf_lightning.evaluation.trust.clustered import Share
from rlhf_lightning.evaluation.trust.labelers import LabelerReport
from rlhf_lightning.evaluation.trust.report import TrustReport
from rlhf_lightning.evaluation.trust.slices import Slice


def markdown(report: TrustReport, head: dict[str, Any]) -> str:
    """The report as Markdown.

    Args:
        report: The report.
        head: What it was made from, as in `trust.json`.
    """
    parts = [
        f"# How far to trust the reward model {head['reward']}",
        _about(report, head),
        "## Findings\n\n" + _findings(report),
        "## Slices\n\n" + _slices(report.slices, report.labelers_left_out),
    ]
    if report.labelers:
        parts.append("## Labelers\n\n" + _labelers(report.labelers))
    parts += [section for section in (_length(report), _calibration(report), _distribution(report)) if section]
    parts += _curves(report)
    if report.left_out:
        reasons = [[name, reason] for name, reason in report.left_out.items()]
        parts.append("## Not in this report\n\n" + markdown_table(["section", "why"], reasons))
    return "\n\n".join(parts) + "\n"


def _about(report: TrustReport, head: dict[str, Any]) -> str:
    shared = head["held_out_prompts_in_training"]
    warning = f" **{shared} of these prompts are training prompts too, so this flatters the model.**" if shared else ""
    training = head["training"]
    trained = f"{training['rows']} ({training['known']})" if training["rows"] else f"unknown: {training['known']}"
    return (
        f"It orders {share(report.accuracy)} of {report.accuracy.pairs} pairs on {report.accuracy.prompts} held-out "
        f"prompts ({head['rankings']['rows']} rankings) as the labelers did.{warning} Training rankings: {trained}. "
        "Brackets are 95 % intervals with errors clustered by prompt."
    )


def _findings(report: TrustReport) -> str:
    if not report.findings:
        return "None of the tests found anything."
    grades = {1: "misleads", 2: "weaker", 3: "worth knowing"}
    return "\n".join(
        f"{number}. **{f.what}** ({grades[f.severity]}) {f.evidence} *{f.todo}*"
        for number, f in enumerate(report.findings, start=1)
    )


def _slices(slices: Sequence[Slice], left_out: Sequence[str]) -> str:
    rows = [
        [
            one.dimension,
            one.value,
            share(one.accuracy),
            f"{one.accuracy.pairs} / {one.accuracy.prompts}",
            "" if one.lower is None else f"{one.lower.value:+.3f}",
            "" if one.p_adjusted is None else f"{one.p_adjusted:.2g}",
            "unknown" if one.train_rows is None else f"{one.train_rows} / {one.train_pairs}",
            " ".join(word for word, there in (("WORSE", one.worse), ("HARDLY TRAINED ON", one.starved)) if there),
        ]
        for one in slices
    ]
    without = f" Pairs of {', '.join(left_out)} are left out of all but their own rows." if left_out else ""
    columns = ["by", "slice", "accuracy", "pairs / prompts", "minus rest", "p", "training rows / pairs", ""]
    return (
        "p is one-sided (worse than the rest; for two columns, than the same flag elsewhere) and adjusted by "
        f"Benjamini-Hochberg; slices without p are too small or only described.{without}\n\n"
        + markdown_table(columns, rows)
    )


def _labelers(labelers: Sequence[LabelerReport]) -> str:
    columns = [
        "labeler",
        "pairs / prompts",
        "model agrees",
        "other labelers agree",
        "others with each other",
        "prefers longer",
        "others prefer longer",
        "",
    ]
    rows = [
        [
            one.name,
            f"{one.model.pairs} / {one.model.prompts}",
            *(share(s) for s in (one.model, one.others, one.among_others, one.longer, one.longer_of_others)),
            {"": "", "noise": "NOISE", "length": "BY LENGTH"}[one.fault],
        ]
        for one in labelers
    ]
    return markdown_table(columns, rows)


def _length(report: TrustReport) -> str:
    b = report.length
    if b is None:
        return ""
    rows = [
        ["accuracy where the longer one is preferred", share(b.accuracy_longer_preferred)],
        ["accuracy where the shorter one is preferred", share(b.accuracy_shorter_preferred)],
        ["model prefers the longer one", share(b.model_longer)],
        ["labelers prefer the longer one", share(b.labelers_longer)],
        ["difference", share(b.excess)],
        [f"log-odds of the model per {b.gap_deviation:.0f} characters", _estimate(*b.model_slope)],
        [f"log-odds of the labelers per {b.gap_deviation:.0f} characters", _estimate(*b.labelers_slope)],
        [f"score per {b.gap_deviation:.0f} characters at equal preference", _estimate(*b.score_per_length)],
    ]
    return "## Length\n\n" + markdown_table(["", "95 % interval"], rows)


def _calibration(report: TrustReport) -> str:
    c = report.calibration
    if c is None:
        return ""
    rows = [
        [f"{b.low:.1f} to {b.high:.1f}", b.confidence, f"{b.accuracy:.3f} ± {1.96 * b.error:.3f}", b.pairs]
        for b in c.curve
        if b.high > 0.5 + 1e-9  # the other half mirrors it
    ]
    text = (
        f"ECE {c.ece:.3f}; temperature {c.temperature:.2f} [{c.temperature_low:.2f}, {c.temperature_high:.2f}] would "
        f"calibrate it; loss {c.loss:.3f}, then {c.loss_calibrated:.3f}.\n\n"
    )
    return "## Calibration\n\n" + text + markdown_table(["stated", "mean stated", "came true", "pairs"], rows)


def _distribution(report: TrustReport) -> str:
    if not report.distribution:
        return ""
    rows = [
        [
            s.policy,
            s.of,
            f"{s.ks:.3f} ({s.ks_by_chance:.3f})",
            share(s.above_most),
            share(s.above_all),
            *(f"{a:.2f} → {b:.2f}" for a, b in (s.quantiles["5 %"], s.quantiles["50 %"], s.quantiles["95 %"])),
            "ALARM" if s.alarm else "",
        ]
        for s in report.distribution
    ]
    columns = ["policy", "of", "KS (by chance)", "above 99 % of training", "above all", "5 %", "median", "95 %", ""]
    return "## Outputs against training responses (training → policy)\n\n" + markdown_table(columns, rows)


def _curves(report: TrustReport) -> list[str]:
    parts = []
    for one in report.overoptimisation:
        rows = [[p.name, f"{p.kl:.2f}", _interval(p.proxy), _interval(p.gold)] for p in one.points]
        text = f"## Proxy and gold against KL: {one.of}\n\n" + markdown_table(["", "KL", "proxy", "gold"], rows)
        if p := one.parting:
            text += f"\n\nVerdict: {p.verdict}. Gold is highest at {p.peak}"
            text += f" (KL {p.kl:.2f} [{p.kl_low:.2f}, {p.kl_high:.2f}])"
            text += f"; shown by {p.at}." if p.at else "."
        parts.append(text)
    return parts


def share(one: Share | None) -> str:
    """E.g. "0.701 [0.650, 0.752]"; empty for None."""
    return "" if one is None else str(one.interval)


def _interval(one: Interval | None) -> str:
    return "" if one is None else str(one)


def _estimate(value: float, error: float) -> str:
    return str(Interval(value, value - 1.96 * error, value + 1.96 * error))
