"""§4.1: accuracy of reward models on labelers of training groups and of the group held out."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.instructgpt.claims.claim import Claim, no_data
from benchmarks.instructgpt.claims.evidence import Evidence

STATEMENT = "Reward models are at most 5 points less accurate on a held-out labeler group (2.8 in §4.1)"
MARGIN = 0.05
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; the last for more, too."""
COLUMNS = ("held out", "training groups", "held-out group", "gap")


def groups(evidence: Evidence) -> list[Claim]:
    """One claim, from what `crossvalidate` reports."""
    record = evidence.trainings.get("groups")
    if record is None:
        return [no_data("groups", STATEMENT, "the five folds")]
    result = record["result"]
    rows = [
        (", ".join(held_out), *(_cell(fold[name]) for name in ("training", "held_out", "gap")))
        for held_out, fold in zip(result["plan"]["groups"], result["folds"], strict=True)
    ]
    mean, spread = result["mean"], result["over_folds"]["gap"]
    rows.append(("mean", *(_cell(mean[name]) for name in ("training", "held_out", "gap"))))
    gap = mean["gap"]["value"]
    # Both the choice of prompts, which all folds share, and that of labelers, of whom there are few groups.
    quantile = STUDENT[min(len(result["folds"]) - 1, len(STUDENT)) - 1]
    error = math.hypot(quantile * spread, 1.96 * (mean["gap"]["error"] or 0.0))
    verdict: Any = "met" if gap + error <= MARGIN else "not met" if gap - error > MARGIN else "undecided"
    reason = (
        f"{_cell(mean['training'])} on training groups, {_cell(mean['held_out'])} on the held-out group, gap "
        f"{_cell(mean['gap'])} (standard errors over prompts; ± {100 * spread:.1f} from how folds differ); with "
        f"both, the 95 % interval of the gap is ± {100 * error:.1f}."
    )
    return [Claim("groups", STATEMENT, verdict, reason, COLUMNS, tuple(rows), {"gap": gap, "error": error})]


def _cell(estimate: dict[str, Any]) -> str:
    error = estimate.get("error")
    return f"{100 * estimate['value']:.1f}" + (f" ± {100 * error:.1f} %" if error is not None else " %")
