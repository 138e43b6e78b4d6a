"""§3.5, C.1: SFT checkpoints selected by RM score or by validation loss; which one does gold agree with?"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.instructgpt.claims.claim import Claim, no_data
from benchmarks.instructgpt.claims.evidence import Array, Evidence, mean_over_units, shown

STATEMENT = "The gold preference agrees with selection by RM score rather than by validation loss"
COLUMNS = (
    "seed",
    "by loss",
    "by RM score",
    "best by gold",
    "gold: RM's choice - loss's",
    "ρ(RM, gold)",
    "ρ(-loss, gold)",
)


def selection(evidence: Evidence) -> list[Claim]:
    """One claim."""
    found = {r["seed"]: r["result"]["epochs"] for r in evidence.evaluations.values() if r["kind"] == "selection"}
    if not found:
        return [no_data("selection", STATEMENT, "an SFT run with judged epochs")]
    rows, gains, numbers = [], [], {}
    for seed, epochs in sorted(found.items()):
        gold = {int(e): np.asarray(v["gold"], float).mean(0) for e, v in epochs.items()}
        score = {int(e): float(v["rm_score"]) for e, v in epochs.items()}
        loss = {int(e): float(v["val_loss"]) for e, v in epochs.items()}
        by_loss, by_score = min(loss, key=lambda e: loss[e]), max(score, key=lambda e: score[e])
        best = max(gold, key=lambda e: float(gold[e].mean()))
        gains.append(gold[by_score] - gold[by_loss])
        order = sorted(gold)
        means = np.array([gold[e].mean() for e in order])
        rho = [spearman(np.array(x), means) for x in ([score[e] for e in order], [-loss[e] for e in order])]
        gain = mean_over_units(gains[-1][None])
        rows.append((seed, f"epoch {by_loss}", f"epoch {by_score}", f"epoch {best}", shown(gain), *rho))
        table = {str(e): {"val_loss": loss[e], "rm_score": score[e], "gold": float(gold[e].mean())} for e in order}
        numbers[str(seed)] = {"gain": vars(gain), "rho_rm": rho[0], "rho_loss": rho[1], "epochs": table}
    pooled = mean_over_units(np.stack(gains))
    verdict: Any = "met" if pooled.low > 0 else "not met" if pooled.high < 0 else "undecided"
    reason = f"Gold of the epoch chosen by RM score minus that chosen by loss: {shown(pooled)} over {len(gains)} seeds."
    return [Claim("selection", STATEMENT, verdict, reason, COLUMNS, tuple(rows), numbers)]


def spearman(a: Array, b: Array) -> float:
    """Rank correlation; 0 where one does not vary.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
    0.5
    """
    ranks = [x.argsort().argsort().astype(float) for x in (a, b)]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return round(float(np.corrcoef(ranks[0], ranks[1])[0, 1]), 3)
