"""Figures 34 and 36: β, with and without pretraining text; over-optimisation and the KL budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.instructgpt.claims.claim import Claim, no_data
from benchmarks.instructgpt.claims.evidence import Evidence, exact, gold, mean_over_units, seen, shown
from benchmarks.instructgpt.claims.ordering import PTX
from benchmarks.instructgpt.claims.overoptimisation import Onset, onset
from benchmarks.instructgpt.claims.tax import text_loss
from benchmarks.instructgpt.scale import DEFAULT_BETA, KL_BUDGET, RECOMMENDED_GAMMA

BUDGET = f"The KL budget of {KL_BUDGET:g} nats stops PPO without a penalty before over-optimisation begins"
ALONE = "No β makes up for the lack of pretraining text (Fig. 34): at every β the loss on text stays above PPO-ptx's"
COLUMNS = (
    "γ",
    "β",
    "seed",
    "gold",
    "RM score",
    "KL",
    "nats a token above base",
    "exact match",
    "over-optimised from KL",
)


def beta(evidence: Evidence) -> list[Claim]:
    """Two claims; the table is the first one's."""
    return [_budget(evidence), _alone(evidence)]


def onset_of(evidence: Evidence, run: str) -> Onset | None:
    """Over-optimisation in the curves of a run."""
    curves = evidence.trainings[run]["curves"]
    if not {"kl", "proxy", "gold"} <= curves.keys():
        return None
    return onset(curves["kl"], curves["proxy"], curves["gold"])


def _budget(evidence: Evidence) -> Claim:
    rows = tuple(_rows(evidence))
    seeds = evidence.seeds("ppo-g0-b0", "ppo-budget")
    if not seeds:
        missing = no_data("beta", BUDGET, "PPO with β = 0, with and without a budget")
        return replace(missing, columns=COLUMNS, rows=rows)
    parts, verdicts, numbers = [], [], {}
    for seed in seeds:
        found = onset_of(evidence, f"ppo-g0-b0-s{seed}")
        limited, free = (evidence.policy(n, seed) for n in ("ppo-budget", "ppo-g0-b0"))
        assert limited is not None
        assert free is not None
        stopped_at = float(np.nanmean(seen("kl")(limited)))
        difference = mean_over_units((gold(limited) - gold(free))[None])
        last = max(evidence.trainings[f"ppo-g0-b0-s{seed}"]["curves"].get("kl", [0.0]))
        begins = f"begins at KL {found.kl:.1f}" if found else f"is not seen up to KL {last:.1f}"
        parts.append(
            f"seed {seed}: over-optimisation {begins}; with the budget the run ends at KL {stopped_at:.1f}, "
            f"gold {shown(difference)} above the run without"
        )
        verdicts.append("undecided" if found is None else "met" if stopped_at < found.kl else "not met")
        numbers[str(seed)] = {
            "onset": vars(found) if found else None,
            "stopped_at": stopped_at,
            "gold_difference": vars(difference),
        }
    verdict: Any = verdicts[0] if len(set(verdicts)) == 1 else "undecided"
    return Claim("beta", BUDGET, verdict, "; ".join(parts) + ".", COLUMNS, rows, numbers)


def _alone(evidence: Evidence) -> Claim:
    seeds = evidence.seeds("base", PTX)
    runs = [(b, n) for g, b, n in evidence.runs() if g == 0 and set(evidence.seeds(n)) & set(seeds)]
    if not seeds or len(runs) < 2:
        return no_data("beta", ALONE, "PPO at several β, and PPO-ptx")
    parts, verdicts, numbers = [], [], {}
    for b, name in runs:
        both = [s for s in evidence.seeds(name) if s in seeds]
        gap = mean_over_units(evidence.table(name, both, text_loss) - evidence.table(PTX, both, text_loss))
        parts.append(f"β = {b:g}: {shown(gap)}")
        verdicts.append("met" if gap.low > 0 else "not met" if gap.high < 0 else "undecided")
        numbers[f"{b:g}"] = vars(gap)
    verdict: Any = "not met" if "not met" in verdicts else "undecided" if "undecided" in verdicts else "met"
    reason = f"Loss of PPO minus that of PPO-ptx (β = {DEFAULT_BETA:g}), nats a token: {'; '.join(parts)}."
    return Claim("beta", ALONE, verdict, reason, numbers=numbers)


def _rows(evidence: Evidence) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for g, b, name in evidence.runs():
        if g not in (0.0, RECOMMENDED_GAMMA):
            continue
        for seed in evidence.seeds(name, "base"):
            record, base = evidence.policy(name, seed), evidence.policy("base", seed)
            assert record is not None
            assert base is not None
            found = onset_of(evidence, f"{name}-s{seed}") if f"{name}-s{seed}" in evidence.trainings else None
            plain = [float(np.nanmean(seen(k)(record))) for k in ("score", "kl")]
            rows.append(
                (
                    f"{g:g}",
                    f"{b:g}",
                    seed,
                    shown(mean_over_units(gold(record)[None])),
                    *(f"{v:.2f}" for v in plain),
                    shown(mean_over_units((text_loss(record) - text_loss(base))[None])),
                    f"{exact(record).mean():.2f}",
                    f"{found.kl:.1f}" if found else "not seen",
                )
            )
    return rows
