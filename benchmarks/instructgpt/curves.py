"""What a PPO run logged, iteration by iteration."""

from __future__ import annotations

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

    Gold is of responses taken to have ended (see `gold_reward`); the share of gold for an end is taken off here for
    those that had none.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    logged = set(events.Tags()["scalars"])
    found: dict[str, list[float]] = {}
    for name, tag in TAGS.items():
        if tag in logged:
            by_step: dict[int, float] = {e.step: e.value for e in events.Scalars(tag)}
            found[name] = [round(by_step[step], 5) for step in sorted(by_step)]
    if "gold" in found and "eos_rate" in found:
        pairs = zip(found["gold"], found["eos_rate"], strict=True)
        found["gold"] = [round(g - ENDED * (1 - eos), 5) for g, eos in pairs]
    return found


def last(values: dict[str, Any], name: str) -> float | None:
    """The last iteration's value, or None."""
    series = values.get(name) or []
    return float(series[-1]) if series else None
