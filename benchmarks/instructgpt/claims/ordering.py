"""§4.1: base < SFT < PPO by preference, and PPO-ptx about as good as PPO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.instructgpt.claims.claim import Claim, above, no_data, within, worst
from benchmarks.instructgpt.claims.evidence import Array, Evidence, gold, mean_over_units, seen, shown, wins
from benchmarks.instructgpt.scale import DEFAULT_BETA, RECOMMENDED_GAMMA

PPO, PTX = f"ppo-g0-b{DEFAULT_BETA:g}", f"ppo-g{RECOMMENDED_GAMMA:g}-b{DEFAULT_BETA:g}"
NAMES = {
    "base": "base",
    "sft": "SFT that PPO starts from",
    "sft16": "SFT baseline, by RM score",
    PPO: "PPO",
    PTX: f"PPO-ptx, γ = {RECOMMENDED_GAMMA:g}",
}
MARGIN = 0.05
ORDER = "base < SFT < PPO on the gold preference, for both SFT models"
CLOSE = "PPO-ptx within 5 points of PPO on gold win rate over SFT"
COLUMNS = ("model", "seed", "gold, seen", "gold, unseen", "wins over SFT", "RM score", "KL", "tokens", "EOS")


def ordering(evidence: Evidence) -> list[Claim]:
    """Two claims."""
    return [_order(evidence), _close(evidence)]


def _order(evidence: Evidence) -> Claim:
    seeds = evidence.seeds("base", "sft", "sft16", PPO)
    if not seeds:
        return replace(no_data("ordering", ORDER, "base, both SFT models and PPO of one seed"), **_table(evidence))
    tables = {m: evidence.table(m, seeds, gold) for m in ("base", "sft", "sft16", PPO)}
    steps = {
        "SFT - base": tables["sft"] - tables["base"],
        "SFT baseline - base": tables["sft16"] - tables["base"],
        "PPO - SFT": tables[PPO] - tables["sft"],
        "PPO - SFT baseline": tables[PPO] - tables["sft16"],
    }
    pooled = {name: mean_over_units(table) for name, table in steps.items()}
    each = {name: {s: mean_over_units(table[[i]]) for i, s in enumerate(seeds)} for name, table in steps.items()}
    # Every seed has to agree in sign, and all together have to leave no doubt.
    against = [f"{n}, seed {s}" for n, found in each.items() for s, i in found.items() if i.mean <= 0]
    verdict = worst([above(i, 0.0) for i in pooled.values()])
    if against and verdict == "met":
        verdict = "undecided"
    reason = "; ".join(f"{n}: {shown(i)} gold over {len(seeds)} seeds" for n, i in pooled.items())
    reason += f". Against it: {', '.join(against)}." if against else ". Every seed agrees in sign."
    numbers = {n: {"all": vars(i)} | {str(s): vars(x) for s, x in each[n].items()} for n, i in pooled.items()}
    return replace(Claim("ordering", ORDER, verdict, reason, numbers=numbers), **_table(evidence))


def _table(evidence: Evidence) -> dict[str, Any]:
    return {"columns": COLUMNS, "rows": tuple(_rows(evidence))}


def _close(evidence: Evidence) -> Claim:
    seeds = evidence.seeds("sft", PPO, PTX)
    if not seeds:
        return no_data("ordering", CLOSE, "SFT, PPO and PPO-ptx of one seed")
    difference = _wins(evidence, PTX, seeds) - _wins(evidence, PPO, seeds)
    pooled = mean_over_units(difference)
    each = {s: mean_over_units(difference[[i]]) for i, s in enumerate(seeds)}
    per_seed = "; ".join(f"seed {s}: {shown(i)}" for s, i in each.items())
    reason = f"PPO-ptx - PPO, win rate over SFT: {shown(pooled)} over {len(seeds)} seeds ({per_seed})."
    numbers = {"all": vars(pooled)} | {str(s): vars(i) for s, i in each.items()}
    return Claim("ordering", CLOSE, within(pooled, MARGIN), reason, numbers=numbers)


def _wins(evidence: Evidence, model: str, seeds: list[int]) -> Array:
    pairs = [(evidence.policy(model, s), evidence.policy("sft", s)) for s in seeds]
    return np.stack([wins(ours, sft) for ours, sft in pairs if ours is not None and sft is not None])


def _rows(evidence: Evidence) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for model, name in NAMES.items():
        for seed in evidence.seeds(model, "sft"):
            record = evidence.policy(model, seed)
            assert record is not None
            golds = [shown(mean_over_units(gold(record, (split,))[None])) for split in ("seen", "unseen")]
            plain = [float(np.nanmean(seen(k)(record))) for k in ("score", "kl", "tokens", "ended")]
            won = shown(mean_over_units(_wins(evidence, model, [seed]))) if model != "sft" else "0.5"
            rows.append((name, seed, *golds, won, *(f"{v:.2f}" for v in plain)))
    return rows
