"""Whether both sides computed the same numbers, within the noise of bf16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LOSS_TOLERANCE = {"bf16": 0.03, "float32": 0.001}
"""Largest difference of two losses of a step, nats: bf16 has three digits, and sums differ in order."""
MEAN_TOLERANCE = {"bf16": 0.1, "float32": 0.001}
"""Mean absolute difference of per-token numbers, nats or score units."""
PER_TOKEN = ("policy_logprobs", "reference_logprobs", "values", "scores")


def compare_losses(ours: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]], precision: str) -> dict[str, Any]:
    """Losses step by step; the later ones prove that the updates between them were the same too.

    Args:
        ours: Steps of a run of this project, with `loss`.
        peer: Steps of a run of the peer.
        precision: Of both.
    """
    pairs = [(a["loss"], b["loss"]) for a, b in zip(ours, peer, strict=True)]
    largest = max(abs(a - b) for a, b in pairs)
    return {
        "what": "losses of every step",
        "ours": [a for a, _ in pairs],
        "trl": [b for _, b in pairs],
        "largest_difference": largest,
        "tolerance": LOSS_TOLERANCE[precision],
        "agrees": largest <= LOSS_TOLERANCE[precision],
    }


def compare_epoch_loss(
    ours: Sequence[dict[str, Any]], peer: Sequence[dict[str, Any]], precision: str
) -> dict[str, Any]:
    """Mean loss of all label tokens, for runs that put the same rows into different batches and learn nothing."""
    means, labels = [], []
    for steps in (ours, peer):
        labels.append(sum(s["labels"] for s in steps))
        means.append(sum(s["loss"] * s["labels"] for s in steps) / labels[-1])
    difference = abs(means[0] - means[1])
    return {
        "what": "mean loss of all label tokens at learning rate 0",
        "ours": means[0],
        "trl": means[1],
        "labels": labels,
        "largest_difference": difference,
        "tolerance": LOSS_TOLERANCE[precision],
        "agrees": difference <= LOSS_TOLERANCE[precision] and labels[0] == labels[1],
    }


def compare_numbers(ours: dict[str, Any], peer: dict[str, Any], precision: str) -> dict[str, Any]:
    """Numbers of PPO on the same responses: per token, or per response for the scores."""
    found: dict[str, Any] = {"what": f"numbers of given responses in {precision}", "agrees": True}
    found["tolerance"] = tolerance = MEAN_TOLERANCE[precision]
    for name in PER_TOKEN:
        a, b = _flat(ours[name]), _flat(peer[name])
        if len(a) != len(b):
            raise ValueError(f"{name}: {len(a)} numbers on one side, {len(b)} on the other")
        differences = [abs(x - y) for x, y in zip(a, b, strict=True)]
        mean = sum(differences) / len(differences)
        found[name] = {
            "mean_ours": sum(a) / len(a),
            "mean_trl": sum(b) / len(b),
            "mean_difference": mean,
            "largest_difference": max(differences),
            "numbers": len(a),
        }
        found["agrees"] = found["agrees"] and mean <= tolerance
    return found


def _flat(x: Any) -> list[float]:
    return [v for part in x for v in _flat(part)] if isinstance(x, list) else [float(x)]
