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
BETAS = (0.0, DEFAULT_BETA, 2.0)
"""Without them nothing is said of "every β"."""
BLOCKS = range(6, 11)
"""Numbers of blocks that the place of over-optimisation is looked for with: it must not hang on one."""
COLUMNS = (
    "γ",
    "β",
    "seed",
    "iterations",
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


def onset_of(evidence: Evidence, run: str, blocks: int = 8) -> Onset | None:
    """Over-optimisation in the curves of a run, cut into so many blocks."""
    curves = evidence.trainings[run]["curves"]
    if not {"kl", "proxy", "gold"} <= curves.keys():
        return None
    return onset(curves["kl"], curves["proxy"], curves["gold"], blocks)


def kept_iteration(evidence: Evidence, run: str) -> int:
    """Whose policy a run with a budget ends with, from 0: the last one whose rollout was within it."""
    kl = evidence.trainings[run]["curves"]["kl"]
    within = [i for i, value in enumerate(kl) if value <= KL_BUDGET]
    return within[-1] if within else 0


def _budget(evidence: Evidence) -> Claim:
    rows = tuple(_rows(evidence))
    seeds = evidence.seeds("ppo-g0-b0", "ppo-budget")
    if not seeds:
        missing = no_data("beta", BUDGET, "PPO with β = 0, with and without a budget")
        return replace(missing, columns=COLUMNS, rows=rows)
    parts, verdicts, numbers = [], [], {}
    for seed in seeds:
        found = [o for b in BLOCKS if (o := onset_of(evidence, f"ppo-g0-b0-s{seed}", b))]
        # Up to its end the run with a budget is the one without: iterations can be compared.
        kept = kept_iteration(evidence, f"ppo-budget-s{seed}")
        limited, free = (evidence.policy(n, seed) for n in ("ppo-budget", "ppo-g0-b0"))
        assert limited is not None
        assert free is not None
        stopped_at = float(np.nanmean(seen("kl")(limited)))
        difference = mean_over_units((gold(limited) - gold(free))[None])
        last = max(evidence.trainings[f"ppo-g0-b0-s{seed}"]["curves"].get("kl", [0.0]))
        parts.append(
            f"seed {seed}: over-optimisation {_place(found, last)}; with the budget the run ends with the policy of "
            f"iteration {kept} (held-out KL {stopped_at:.1f}), gold {shown(difference)} above the run without"
        )
        before = {kept <= o.iteration for o in found}
        verdicts.append("undecided" if len(before) != 1 else "met" if before == {True} else "not met")
        numbers[str(seed)] = {
            "onsets": [vars(o) for o in found],
            "kept_iteration": kept,
            "stopped_at": stopped_at,
            "gold_difference": vars(difference),
        }
    verdict: Any = verdicts[0] if len(set(verdicts)) == 1 else "undecided"
    return Claim("beta", BUDGET, verdict, "; ".join(parts) + ".", COLUMNS, rows, numbers)


def _place(found: list[Onset], last: float) -> str:
    """Where over-optimisation begins, in words."""
    if not found:
        return f"is not seen up to KL {last:.1f}"
    low, high = (f([o.kl for o in found]) for f in (min, max))
    first, end = (f([o.iteration for o in found]) for f in (min, max))
    kl = f"KL {low:.1f}" if low == high else f"a KL between {low:.1f} and {high:.1f}"
    return (
        f"begins at {kl} (iteration {first} to {end}, as the run is cut into {BLOCKS[0]} to {BLOCKS[-1]} blocks, of "
        f"which {len(found)} of {len(BLOCKS)} show it)"
    )


def _alone(evidence: Evidence) -> Claim:
    seeds = evidence.seeds("base", PTX)
    runs = [(b, n) for g, b, n in evidence.runs() if g == 0 and set(evidence.seeds(n)) & set(seeds)]
    if not seeds or len(runs) < 2:
        return no_data("beta", ALONE, "PPO at several β, and PPO-ptx")
    parts, verdicts, numbers = [], [], {}
    for b, name in runs:
        both = [s for s in evidence.seeds(name, "sft") if s in seeds]
        ppo, ptx, sft = (evidence.table(m, both, text_loss) for m in (name, PTX, "sft"))
        gap, own = mean_over_units(ppo - ptx), mean_over_units(ppo - sft)
        parts.append(f"β = {b:g}: {shown(gap)}, against SFT {shown(own)}")
        verdicts.append("met" if gap.low > 0 else "not met" if gap.high < 0 else "undecided")
        numbers[f"{b:g}"] = vars(gap) | {"against_sft": vars(own)}
    missing = [b for b in BETAS if b not in {b for b, _ in runs}]
    verdict: Any = "not met" if "not met" in verdicts else "undecided" if "undecided" in verdicts or missing else "met"
    reason = f"Loss of PPO minus that of PPO-ptx (β = {DEFAULT_BETA:g}), nats a token: {'; '.join(parts)}. "
    reason += "What SFT has lost is in the former and no β can give it back; β = 0 has three times the iterations."
    reason += f" Without data: β = {', '.join(f'{b:g}' for b in missing)}." if missing else ""
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
                    len(evidence.trainings.get(f"{name}-s{seed}", {}).get("curves", {}).get("kl", [])),
                    shown(mean_over_units(gold(record)[None])),
                    *(f"{v:.2f}" for v in plain),
                    shown(mean_over_units((text_loss(record) - text_loss(base))[None])),
                    f"{exact(record).mean():.2f}",
                    f"{found.kl:.1f}" if found else "not seen",
                )
            )
    return rows
