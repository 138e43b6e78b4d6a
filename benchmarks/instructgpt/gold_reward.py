"""The gold preference as a reward of weight 0: reported for every rollout, never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_lightning.quickstart.gold import gold_score


def gold(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[float]:
    """Gold scores in [0, 1] of responses that are taken to have ended by themselves: a reward is not told.

    `curves.trajectory` takes off what the others do not deserve, by the rollout's EOS rate.
    """
    return [gold_score(row["check"], text, True) for text, row in zip(responses, rows, strict=True)]
