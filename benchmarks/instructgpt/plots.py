"""Pictures of the summary; colours of Okabe and Ito, and different marks, for eyes that tell few colours apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.instructgpt.claims.beta import onset_of
from benchmarks.instructgpt.claims.evidence import Evidence, exact, gold, mean_over_units
from benchmarks.instructgpt.claims.ordering import NAMES
from benchmarks.instructgpt.claims.tax import text_loss
from benchmarks.instructgpt.scale import DEFAULT_BETA, KL_BUDGET, RECOMMENDED_GAMMA

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56b4e9", "#000000")
MARKS = "os^Dv*P"


def draw_all(evidence: Evidence, out: Path) -> list[str]:
    """Every picture whose numbers are there; their file names."""
    drawn = []
    for name, draw in (("ordering.png", draw_ordering), ("tax.png", draw_tax), ("beta.png", draw_beta)):
        figure = draw(evidence)
        if figure is not None:
            figure.savefig(out / f".{name}", dpi=110, format="png")
            (out / f".{name}").replace(out / name)
            plt.close(figure)
            drawn.append(name)
    return drawn


def draw_ordering(evidence: Evidence) -> Any:
    """Gold of base, SFT, PPO and PPO-ptx, every seed."""
    models = [m for m in NAMES if evidence.seeds(m)]
    if not models:
        return None
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    seeds = sorted({s for m in models for s in evidence.seeds(m)})
    for i, seed in enumerate(seeds):
        for place, model in enumerate(models):
            if seed not in evidence.seeds(model):
                continue
            found = mean_over_units(evidence.table(model, [seed], gold))
            label = f"seed {seed}" if model == models[0] else None
            _point(axis, place + 0.12 * (i - (len(seeds) - 1) / 2), found, i, label)
    axis.set_xticks(range(len(models)), [NAMES[m] for m in models])
    axis.set_ylabel("gold score, 256 held-out prompts")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def draw_tax(evidence: Evidence) -> Any:
    """Loss on pretraining text and exact match against γ."""
    runs = [(g, n) for g, b, n in evidence.runs() if b == DEFAULT_BETA and evidence.seeds(n, "base")]
    if not runs:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axis, measure, title in (
        (axes[0], text_loss, "loss on held-out text above base, nats a token"),
        (axes[1], exact, "exact match"),
    ):
        for place, (_, name) in enumerate(runs):
            seeds = evidence.seeds(name, "base")
            base = evidence.table("base", seeds, measure) if measure is text_loss else 0.0
            _point(axis, place, mean_over_units(evidence.table(name, seeds, measure) - base), 0, None)
        for number, model in enumerate(("base", "sft")):
            if seeds := evidence.seeds(model, "base"):
                base = evidence.table("base", seeds, measure) if measure is text_loss else 0.0
                level = mean_over_units(evidence.table(model, seeds, measure) - base).mean
                axis.axhline(level, color=COLOURS[number + 1], ls=("--", ":")[number], label=model)
        axis.set_xticks(range(len(runs)), [f"{g:g}" if g else "PPO" for g, _ in runs])
        axis.set_xlabel("γ")
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    return figure


def draw_beta(evidence: Evidence) -> Any:
    """Gold and proxy against KL along every run of the β experiment, with and without pretraining text."""
    runs = [(g, b, n) for g, b, n in evidence.runs() if g in (0.0, RECOMMENDED_GAMMA)]
    runs = [(g, b, f"{n}-s{s}") for g, b, n in runs for s in evidence.seeds(n)[:1] if f"{n}-s{s}" in evidence.trainings]
    if not runs:
        return None
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained", sharex=True, sharey="row")
    betas = sorted({b for _, b, _ in runs})
    for column, gamma in enumerate((0.0, RECOMMENDED_GAMMA)):
        for g, b, name in runs:
            curves = evidence.trainings[name]["curves"]
            if g != gamma or not {"kl", "gold", "proxy"} <= curves.keys():
                continue
            colour, mark = COLOURS[betas.index(b) % 7], MARKS[betas.index(b) % 7]
            for row, what in enumerate(("gold", "proxy")):
                kl, values = _smooth(curves["kl"]), _smooth(curves[what])
                axes[row][column].plot(kl, values, color=colour, marker=mark, ms=3, lw=1, label=f"β = {b:g}")
            if found := onset_of(evidence, name):
                axes[0][column].plot(found.kl, found.gold, "X", color=colour, ms=11)
        axes[0][column].set_title("PPO" if gamma == 0 else f"PPO-ptx, γ = {gamma:g}", fontsize=10)
        axes[1][column].set_xlabel("KL to the SFT model, nats per response")
        for row in (0, 1):
            axes[row][column].axvline(KL_BUDGET, color="grey", ls="--", lw=1)
            axes[row][column].grid(alpha=0.3)
    axes[0][0].set_ylabel("gold of rollouts")
    axes[1][0].set_ylabel("RM score of rollouts")
    axes[0][0].legend(fontsize=8, title="X: over-optimised from here; dashed: budget", title_fontsize=7)
    return figure


def _point(axis: Any, x: float, found: Any, number: int, label: str | None) -> None:
    error = [[found.mean - found.low], [found.high - found.mean]]
    colour, mark = COLOURS[number % 7], MARKS[number % 7]
    axis.errorbar([x], [found.mean], yerr=error, fmt=mark, color=colour, ms=5, capsize=3, label=label)


def _smooth(series: list[float], width: int = 4) -> list[float]:
    """Means of consecutive iterations, one for each `width`."""
    width = min(width, max(1, len(series) // 2))
    return [sum(series[i : i + width]) / width for i in range(0, len(series) - width + 1, width)]
