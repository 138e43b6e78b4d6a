"""Models on real data. There is no gold preference here: only the reward model, which they were trained against."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.instructgpt.plan import Evaluation
from benchmarks.instructgpt.records import rounded
from benchmarks.instructgpt.scale import Scale
from benchmarks.instructgpt.tax import text_losses
from rlhf_lightning.data.kinds import PromptLike
from rlhf_lightning.evaluation.respond import Panel
from rlhf_lightning.quickstart.make_data import read_rows
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.seeding import derive_seed

MOST = 160
"""Held-out rows that are judged."""


def judge_real(panel: Panel, evaluation: Evaluation, data: Path, scale: Scale, cuda_graphs: bool) -> dict[str, Any]:
    """RM score, KL and length on held-out prompts, and loss on held-out text; numbers only, no text."""
    most = scale.held_out or MOST
    rows = read_rows(data / "prompts_val.jsonl")
    fits = [r["prompt"] for r in rows if len(panel.template.encode_prompt(r["prompt"])) <= scale.real_prompt_tokens]
    prompts: list[PromptLike] = fits[:most]
    sampling = SamplingSettings(max_response_tokens=scale.real_sample_tokens, cuda_graphs=cuda_graphs)
    found = panel.respond("policy", prompts, sampling, derive_seed(evaluation.seed, "comparison"), "real prompts")
    texts = [json.loads(line)["text"] for line in (data / "pretrain_val.jsonl").read_text().splitlines()]
    return {
        "score": rounded([r.score for r in found]),
        "kl": rounded([r.kl for r in found]),
        "tokens": [r.tokens for r in found],
        "ended": [float(r.ended) for r in found],
        "text": text_losses(panel, "policy", texts[:most]),
    }


def judge_real_reward(panel: Panel, data: Path, scale: Scale) -> dict[str, Any]:
    """Of every held-out prompt, pairs that are ordered as the labeler did, and pairs; by file."""
    result: dict[str, Any] = {}
    for name in ("rankings", "comparisons"):
        rows = read_rows(data / f"{name}_val.jsonl")[: scale.held_out or MOST]
        result[name] = [pairs_right(panel, row, scale) for row in rows if _fits(panel, row, scale)]
    return result


def pairs_right(panel: Panel, row: dict[str, Any], scale: Scale) -> list[int]:
    """[right, longer one is better, pairs] of a ranking or comparison."""
    if "chosen" in row:
        texts, ranks = [row["chosen"], row["rejected"]], [1, 2]
    else:
        texts, ranks = row["responses"], row["ranks"]
    scores = panel.score_texts([row["prompt"]] * len(texts), [(_cut(panel, text, scale), True) for text in texts])
    counts = [0, 0, 0]
    for i, j in combinations(range(len(texts)), 2):
        if ranks[i] == ranks[j]:
            continue
        better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
        counts[0] += scores[better] > scores[worse]
        counts[1] += len(texts[better]) > len(texts[worse])
        counts[2] += 1
    return counts


def _cut(panel: Panel, text: str, scale: Scale) -> str:
    """As in training, where responses are cut; here an end is put after them."""
    ids = panel.template.encode_response(text)[: scale.real_response_tokens]
    return panel.template.decode(ids)


def _fits(panel: Panel, row: dict[str, Any], scale: Scale) -> bool:
    return len(panel.template.encode_prompt(row["prompt"])) <= scale.real_prompt_tokens
