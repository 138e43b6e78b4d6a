"""Once with real data: does the reward model's score rise on held-out prompts, and is text kept?"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.instructgpt.claims.claim import Claim, above, no_data, worst
from benchmarks.instructgpt.claims.evidence import Array, Evidence, bootstrap, mean_over_units, shown
from benchmarks.instructgpt.claims.tax import text_loss
from rlhf_lightning.evaluation.intervals import Interval

STATEMENT = "On real data PPO and PPO-ptx score above SFT on held-out prompts, by the reward model they trained against"
COLUMNS = ("model", "RM score", "wins over SFT by RM", "KL", "tokens", "EOS", "nats a token on held-out text")
NAMES = {"real-base": "base", "real-sft": "SFT", "real-ppo": "PPO", "real-ptx": "PPO-ptx"}


def real(evidence: Evidence) -> list[Claim]:
    """One claim; none where there was no real data."""
    found = {n: evidence.evaluations[n]["result"] for n in NAMES if n in evidence.evaluations}
    if not found:
        return []
    if len(found) < len(NAMES):
        return [no_data("real", STATEMENT, "one of base, SFT, PPO and PPO-ptx")]
    scores = {n: np.asarray(r["score"], float) for n, r in found.items()}
    gains = {n: mean_over_units((scores[n] - scores["real-sft"])[None]) for n in ("real-ppo", "real-ptx")}
    reason = "; ".join(f"{NAMES[n]} - SFT: {shown(i)}" for n, i in gains.items()) + ". "
    reward = evidence.evaluations.get("real-reward")
    reason += _accuracy(reward["result"]) if reward else ""
    rows: list[tuple[Any, ...]] = []
    for name, result in found.items():
        ours, sft = scores[name], scores["real-sft"]
        won = mean_over_units(((ours > sft) + 0.5 * (ours == sft))[None])
        plain = [f"{np.mean(np.asarray(result[k], float)):.2f}" for k in ("kl", "tokens", "ended")]
        rows.append((NAMES[name], shown(mean_over_units(ours[None])), shown(won), *plain, shown(_loss(result))))
    verdict = worst([above(i, 0.0) for i in gains.values()])
    numbers = {n: vars(i) for n, i in gains.items()}
    return [Claim("real", STATEMENT, verdict, reason, COLUMNS, tuple(rows), numbers)]


def _loss(result: dict[str, Any]) -> Interval:
    return mean_over_units(text_loss(result)[None])


def _accuracy(result: dict[str, Any]) -> str:
    """Pair accuracies, intervals over prompts."""
    parts = []
    for name, counts in result.items():
        table = np.asarray(counts, float)
        if not len(table):
            continue
        right, longer = (share(table, column) for column in (0, 1))
        parts.append(f"{name} {shown(right)} of {table[:, 2].sum():.0f} pairs (the longer one: {longer.mean:.3f})")
    return f"The reward model orders held-out {' and '.join(parts)}."


def share(table: Array, column: int) -> Interval:
    """Of all pairs, interval over prompts; [prompts, (right, longer, pairs)]."""
    return bootstrap(lambda draws: table[draws, column].sum(1) / table[draws, 2].sum(1), len(table))
