"""The quickstart's last step: base, SFT and PPO on prompts none of them saw, judged by the gold program."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from rlhf_lightning.artefacts import open_source
from rlhf_lightning.data.agreement import Judgements, labeler_agreement
from rlhf_lightning.data.kinds import PromptLike
from rlhf_lightning.evaluation.intervals import Interval, mean_interval
from rlhf_lightning.evaluation.respond import Panel, Response
from rlhf_lightning.quickstart.gold import gold_score
from rlhf_lightning.quickstart.make_data import read_rows
from rlhf_lightning.rollouts.settings import SamplingSettings

MODELS = ("base", "sft", "ppo")
ROUNDS = 2
"""Samples of each prompt and model; intervals are over prompts, on the mean of a prompt's samples."""


def build_panel(root: Path, base_model: str) -> Panel:
    """Base, SFT and PPO, with the reward model, on one base."""
    sources = {"base": open_source(base_model, "base_model")}
    sources |= {name: open_source(str(root / name), name, expect=(name,)) for name in ("sft", "ppo")}
    return Panel(sources, reference="sft", reward=open_source(str(root / "reward"), "reward", expect=("reward",)))


class Judged:
    """Responses of one model to a set of prompts, round by round, with their gold scores."""

    def __init__(self, rows: list[dict[str, Any]], rounds: list[list[Response]]) -> None:
        self.rows, self.rounds = rows, rounds
        self.gold = [
            [gold_score(row["check"], r.text, r.ended) for row, r in zip(rows, responses, strict=True)]
            for responses in rounds
        ]

    def per_prompt(self, field: str) -> list[float]:
        """Mean over a prompt's samples of a number of the response, or of its gold score."""
        table = self.gold if field == "gold" else [[float(getattr(r, field)) for r in rs] for rs in self.rounds]
        return [sum(column) / len(column) for column in zip(*table, strict=True)]

    def wins_over(self, other: Judged) -> list[float]:
        """How often our sample has the higher gold score, per prompt, ties counting half."""
        outcomes = [
            [0.5 if a == b else float(a > b) for a, b in zip(ours, theirs, strict=True)]
            for ours, theirs in zip(self.gold, other.gold, strict=True)
        ]
        return [sum(column) / len(column) for column in zip(*outcomes, strict=True)]


def judge(
    panel: Panel, rows: list[dict[str, Any]], split: str, seed: int, max_tokens: int, measure: bool = True
) -> dict[str, Judged]:
    """Sample and judge every model on the same prompts with the same random numbers."""
    sampling = SamplingSettings(max_response_tokens=max_tokens)
    prompts: list[PromptLike] = [row["prompt"] for row in rows]
    return {
        name: Judged(
            rows, [panel.respond(name, prompts, sampling, seed, f"{split} {i + 1}", measure) for i in range(ROUNDS)]
        )
        for name in MODELS
    }


def compare(panel: Panel, data: Path, seed: int, max_tokens: int) -> dict[str, Any]:
    """Everything the report says about models and reward model; intervals are 95 % over prompts."""
    seen = judge(panel, read_rows(data / "heldout_seen.jsonl"), "seen families", seed, max_tokens)
    unseen = judge(panel, read_rows(data / "heldout_unseen.jsonl"), "unseen families", seed, max_tokens, measure=False)
    models = {name: _summary(name, seen, unseen) for name in MODELS}
    gains = {
        split: asdict(_difference(judged["ppo"], judged["sft"]))
        for split, judged in (("seen", seen), ("unseen", unseen))
    }
    rankings = read_rows(data / "rankings_heldout.jsonl")
    return {
        "models": models,
        "ppo_minus_sft_gold": gains,
        "reward_model": reward_model_quality(panel, rankings),
        "by_family": _by_family(seen) | _by_family(unseen),
        "samples": _samples(seen),
    }


def _summary(name: str, seen: dict[str, Judged], unseen: dict[str, Judged]) -> dict[str, Any]:
    ours = seen[name]
    plain = {f: sum(v) / len(v) for f in ("kl", "tokens", "ended") if (v := ours.per_prompt(f))}
    return {
        "gold_seen": asdict(mean_interval(ours.per_prompt("gold"))),
        "gold_unseen": asdict(mean_interval(unseen[name].per_prompt("gold"))),
        "score": asdict(mean_interval(ours.per_prompt("score"))),
        "win_rate_vs_sft": asdict(mean_interval(ours.wins_over(seen["sft"]))),
        "win_rate_vs_sft_unseen": asdict(mean_interval(unseen[name].wins_over(unseen["sft"]))),
        "kl": plain["kl"],
        "response_tokens": plain["tokens"],
        "eos_rate": plain["ended"],
    }


def _difference(ours: Judged, theirs: Judged) -> Interval:
    pairs = zip(ours.per_prompt("gold"), theirs.per_prompt("gold"), strict=True)
    return mean_interval([a - b for a, b in pairs])


def _by_family(judged: dict[str, Judged]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for name, one in judged.items():
        gold = one.per_prompt("gold")
        for family in sorted({row["category"] for row in one.rows}):
            mine = [g for g, row in zip(gold, one.rows, strict=True) if row["category"] == family]
            table.setdefault(family, {})[name] = sum(mine) / len(mine)
    return table


def _samples(judged: dict[str, Judged], count: int = 3) -> list[dict[str, str]]:
    rows = judged["sft"].rows
    # Evenly spaced rows, so that nobody has picked them.
    picked = [i * len(rows) // count for i in range(count)]
    return [{"prompt": rows[i]["prompt"]} | {n: judged[n].rounds[0][i].text for n in MODELS} for i in picked]


def reward_model_quality(panel: Panel, rankings: list[dict[str, Any]]) -> dict[str, float | None]:
    """Pair accuracy against every labeler's ranking, beside what length alone and other labelers achieve.

    Pairs that a labeler left tied do not count. Length is in characters.
    """
    flat = [(row, text, ended) for row in rankings for text, ended in zip(row["responses"], row["ended"], strict=True)]
    scores = panel.score_texts([row["prompt"] for row, _, _ in flat], [(text, ended) for _, text, ended in flat])
    right = longer = total = 0.0
    position = 0
    for row in rankings:
        k = len(row["responses"])
        mine, position = scores[position : position + k], position + k
        for i, j in combinations(range(k), 2):
            if row["ranks"][i] != row["ranks"][j]:
                best, other = (i, j) if row["ranks"][i] < row["ranks"][j] else (j, i)
                a, b = len(row["responses"][best]), len(row["responses"][other])
                right += mine[best] > mine[other]
                longer += 0.5 if a == b else float(a > b)
                total += 1
    return {
        "pair_accuracy": right / total,
        "length_baseline": longer / total,
        "labeler_agreement": agreement_of(rankings),
        "pairs": total,
    }


def agreement_of(rankings: list[dict[str, Any]]) -> float | None:
    """How often two labelers order a pair alike, over pairs that both decided; None without any."""
    judgements = Judgements()
    for row in rankings:
        judgements.add(row["prompt"], row["responses"], row["ranks"], row["labeler"])
    found = labeler_agreement(judgements, resamples=0)
    return found.overall.without_ties.value if found else None
