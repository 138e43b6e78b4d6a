"""The report: `crossvalidation.json` for scripts, `crossvalidation.md` for people, beside the paper's numbers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_lightning.artefacts import versions
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.crossvalidation.outcomes import Compared, Summary
from rlhf_lightning.pair_accuracy import Estimate
from rlhf_lightning.whole_files import write_json, write_whole

PAPER = {"training": [0.724, 0.004], "held_out": [0.696, 0.009]}
"""§4.1: five groups, three seeds; App. E.2 prints the same two numbers with their names exchanged."""
NAMES = ("training", "held_out", "gap")
COLUMNS = ["", "training groups", "held-out group", "gap", "pairs (training, held out)", "prompts"]


def write_report(root: Path, plan: dict[str, Any], summary: Summary) -> str:
    """Write both files.

    Args:
        root: Where to.
        plan: What was done.
        summary: What came out.

    Returns:
        The Markdown text.
    """
    content = {"plan": plan, "versions": versions(), **asdict(summary), "paper": PAPER}
    text = markdown(plan, summary)
    write_json(root / "crossvalidation.json", content)
    write_whole(root / "crossvalidation.md", text)
    return text


def markdown(plan: dict[str, Any], summary: Summary) -> str:
    """The report as Markdown."""
    rows = [_row(", ".join(group), one) for group, one in zip(plan["groups"], summary.folds, strict=True)]
    rows.append(_row("**mean of folds**", summary.mean))
    rows.append(["± from how folds differ", *(f"± {100 * summary.over_folds[n]:.1f}" for n in NAMES), "", ""])
    if summary.over_seeds:
        between = (f"{100 * summary.over_seeds[n]:.1f}" for n in NAMES)
        rows.append(["standard deviation of seeds", *between, "", ""])
    paper = [f"{100 * value:.1f} ± {100 * error:.1f}" for value, error in PAPER.values()]
    rows.append(["InstructGPT, §4.1", *paper, "2.8", "", ""])
    seeds = ", ".join(map(str, plan["seeds"]))
    what = {"labeler": "labelers", "labeler_group": "labeler groups"}[plan["by"]]
    return f"""# Cross-validation over {what}

Share of pairs (%) that a reward model orders as the labeler did, for labelers it has learnt from and for the group
it has not, on prompts it has not been trained on; {len(plan["groups"])} folds, seeds {seeds}.
Errors after ± are standard errors over prompts: pairs of one prompt are one observation, and a gap on the same prompts
is surer than one on different ones. How much other labelers would change, the line below the mean says. What the
paper's errors are of, it does not say.

{markdown_table(COLUMNS, rows)}
"""


def _row(name: str, one: Compared) -> list[str]:
    pairs = f"{one.training.pairs}, {one.held_out.pairs}"
    return [name, _cell(one.training), _cell(one.held_out), _cell(one.gap), pairs, str(one.gap.prompts)]


def _cell(estimate: Estimate) -> str:
    value = f"{100 * estimate.value:.1f}"
    return value if estimate.error is None else f"{value} ± {100 * estimate.error:.1f}"
