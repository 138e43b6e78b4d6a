"""Learning curves, from the TensorBoard event files of the runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rlhf_lightning.evaluation.report.blocks import Figure, Section, Text
from rlhf_lightning.evaluation.report.charts import Curve, curves, thinned
from rlhf_lightning.evaluation.report.drawing import Drawing
from rlhf_lightning.evaluation.report.inputs import Inputs

_CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "sft": {"loss": ("train/loss", "val/loss")},
    "reward": {
        "loss": ("train/loss", "val/loss"),
        "accuracy": ("train/accuracy", "val/accuracy"),
        "calibration error": ("val/ece",),
    },
    "ppo": {
        "score": ("rollout/score_mean", "val/score_mean"),
        "KL, nats per response": ("rollout/kl", "val/kl"),
        "response tokens": ("rollout/response_tokens", "val/response_tokens"),
        "share that ended": ("rollout/eos_rate", "val/eos_rate"),
        "entropy, nats per token": ("rollout/entropy",),
        "clipped share": ("policy/clip_frac",),
        "explained variance of values": ("value/explained_variance",),
        "pretraining loss": ("ptx/loss",),
    },
}
"""By stage: titles, and the metrics that are drawn together."""


def learning(inputs: Inputs) -> Section | None:
    """Small charts of every run that has left event files."""
    section = Section("learning", "How they learnt")
    for run in inputs.runs:
        found = read_scalars(run.path / "tensorboard")
        for number, (title, tags) in enumerate(_CHARTS.get(run.stage, {}).items()):
            drawn = [Curve(tag.split("/")[0], *thinned(*found[tag])) for tag in tags if tag in found]
            if not any(len(curve.steps) > 1 for curve in drawn):
                continue
            last = "; ".join(f"{c.name} ends at {c.values[-1]:.3g}" for c in drawn)
            name, heading = f"learning_{run.name}_{number}", f"{run.name}: {title}"
            draw = partial(_draw, drawn, heading)
            section.blocks.append(Figure(name, heading, f"{heading} by optimizer step; {last}", draw, small=True))
    if section.blocks:
        section.blocks.insert(0, Text("By optimizer step."))
    return section if section.blocks else None


def _draw(drawn: list[Curve], title: str, width: float) -> Drawing:
    return curves(drawn, width, title)


def read_scalars(directory: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of every scalar in a directory's event files; where a resumed run wrote a step again, the last.

    Returns:
        By tag; empty where there are no such files.
    """
    if not directory.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        by_step = {float(e.step): float(e.value) for e in events.Scalars(tag)}
        steps = sorted(by_step)
        found[tag] = (steps, [by_step[s] for s in steps])
    return found
