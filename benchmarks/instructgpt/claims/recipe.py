"""C.4, E.9: γ = 27.8 trains; it does not diverge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.instructgpt.claims.claim import Claim, no_data
from benchmarks.instructgpt.claims.evidence import Evidence, Record, gold, mean_over_units, seen, shown
from benchmarks.instructgpt.claims.ordering import PTX

STATEMENT = "γ = 27.8 with the paper's recipe does not diverge in any seed"
RUNS = {
    "paper": "the paper's recipe (gold: of the averaged weights)",
    "ppo-g27.8-b0.05": "γ alone, else as the quickstart",
    PTX: "the quickstart's PPO-ptx",
}
LOSS, SCORE, KL = 0.5, 0.5, 50.0
"""Beyond which a run counts as diverged: a rise of the pretraining loss (nats a token) or a fall of the RM score, from
the first iterations to the last ones, and a KL in nats per response. Set before any run."""
COLUMNS = (
    "run",
    "seed",
    "diverged",
    "ptx loss",
    "RM score",
    "KL",
    "skipped steps",
    "‖ptx‖ / ‖policy‖",
    "gold",
    "its KL",
)


def recipe(evidence: Evidence) -> list[Claim]:
    """One claim."""
    rows, diverged, seeds = [], [], []
    for run, label in RUNS.items():
        for name, training in evidence.trainings.items():
            if name.rpartition("-s")[0] != run:
                continue
            reasons = divergence(training["curves"])
            rows.append(_row(evidence, label, run, training, reasons))
            if run == "paper":
                seeds.append(training["seed"])
                diverged += [f"seed {training['seed']}: {'; '.join(reasons)}"] if reasons else []
    for name, record in evidence.diverged.items():
        if name.rpartition("-s")[0] == "paper" and name not in evidence.trainings:
            seeds.append(record["seed"])
            diverged.append(f"seed {record['seed']}: stopped, {record['message']}")
    if not seeds:
        missing = no_data("recipe", STATEMENT, "runs with the paper's recipe")
        return [replace(missing, columns=COLUMNS, rows=tuple(rows))]
    reason = f"{len(seeds) - len(diverged)} of {len(seeds)} seeds trained to their end without diverging"
    reason += f" ({'; '.join(diverged)})." if diverged else "."
    verdict: Any = "not met" if diverged else "met" if len(seeds) >= 3 else "undecided"
    return [Claim("recipe", STATEMENT, verdict, reason, COLUMNS, tuple(rows))]


def divergence(curves: dict[str, list[float]]) -> list[str]:
    """Why a run counts as diverged; empty where it does not."""
    found = []
    if broken := curves.get("not_finite"):
        found.append(f"{broken[0]:g} metrics that are not finite")
    if max(curves.get("skipped_steps") or [0.0]) > 0:
        found.append(f"{max(curves['skipped_steps']):g} steps without a finite gradient")
    first, end = ends(curves.get("ptx_loss") or [0.0])
    if end - first > LOSS:
        found.append(f"pretraining loss from {first:.2f} to {end:.2f}")
    first, end = ends(curves.get("proxy") or [0.0])
    if first - end > SCORE:
        found.append(f"RM score from {first:.2f} to {end:.2f}")
    if max(curves.get("kl") or [0.0]) > KL:
        found.append(f"KL up to {max(curves['kl']):.0f}")
    return found


def ends(series: list[float], share: float = 0.2) -> tuple[float, float]:
    """Means of the first and the last fifth."""
    count = max(1, round(share * len(series)))
    return sum(series[:count]) / count, sum(series[-count:]) / count


def _row(evidence: Evidence, label: str, run: str, training: Record, reasons: list[str]) -> tuple[Any, ...]:
    curves = training["curves"]

    def change(name: str) -> str:
        return "{:.2f} → {:.2f}".format(*ends(curves[name])) if curves.get(name) else ""

    ptx, policy = sum(curves.get("ptx_grad_norm") or [0.0]), sum(curves.get("policy_grad_norm") or [0.0])
    record = evidence.policy(run, training["seed"])
    judged = (shown(mean_over_units(gold(record)[None])), f"{seen('kl')(record).mean():.2f}") if record else ("", "")
    skipped = f"{max(curves.get('skipped_steps') or [0.0]):g}"
    shares = f"{ptx / policy:.2f}" if policy else ""
    verdict = "; ".join(reasons) or "no"
    return (
        label,
        training["seed"],
        verdict,
        change("ptx_loss"),
        change("proxy"),
        change("kl"),
        skipped,
        shares,
        *judged,
    )
