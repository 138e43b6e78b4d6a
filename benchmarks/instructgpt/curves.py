"""What a PPO run logged, iteration by iteration."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rlhf_lightning.quickstart.gold import ENDED

TAGS = {
    "kl": "rollout/kl",
    "proxy": "rollout/score_mean",
    "gold": "rollout/reward/gold",
    "eos_rate": "rollout/eos_rate",
    "tokens": "rollout/response_tokens",
    "ptx_loss": "ptx/loss",
    "policy_grad_norm": "policy/grad_norm",
    "ptx_grad_norm": "ptx/grad_norm",
    "skipped_steps": "skipped_steps",
    "rollout_s": "time/rollout_s",
    "scoring_s": "time/scoring_s",
    "update_s": "time/update_s",
    "ptx_s": "time/ptx_s",
}


def trajectory(run: Path) -> dict[str, list[float]]:
    """Scalars of every iteration, in order; a key is missing where the run did not log it.

    Values that are not finite are counted in `not_finite`. Gold is of responses taken to have ended (see
    `gold_reward`); the share of gold for an end is taken off here for those that had none.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    logged = set(events.Tags()["scalars"])
    found: dict[str, list[float]] = {}
    broken = 0
    for name, tag in TAGS.items():
        if tag in logged:
            by_step: dict[int, float] = {e.step: e.value for e in events.Scalars(tag)}
            series = [by_step[step] for step in sorted(by_step)]
            broken += sum(not math.isfinite(value) for value in series)
            found[name] = [round(value, 5) for value in finite(series)]
    if "gold" in found and "eos_rate" in found:
        pairs = zip(found["gold"], found["eos_rate"], strict=True)
        found["gold"] = [round(g - ENDED * (1 - eos), 5) for g, eos in pairs]
    if broken:
        found["not_finite"] = [float(broken)]
    return found


def finite(series: list[float]) -> list[float]:
    """Each value that is not finite as the last one that was: JSON has no others, and a diverged run needs a record.

    >>> finite([1.0, float("nan"), 3.0]), finite([float("inf"), 2.0])
    ([1.0, 1.0, 3.0], [0.0, 2.0])
    """
    found: list[float] = []
    for value in series:
        found.append(value if math.isfinite(value) else found[-1] if found else 0.0)
    return found


def last(values: dict[str, Any], name: str) -> float | None:
    """The last iteration's value, or None."""
    series = values.get(name) or []
    return float(series[-1]) if series else None
