"""The comparison as an evaluation's directory, and the page that is made from it; nothing is sampled again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lightning.evaluation.intervals import mean_interval, rate_interval
from rlhf_lightning.evaluation.report.command import ReportSettings
from rlhf_lightning.evaluation.report.command import write_report as write_page_report
from rlhf_lightning.whole_files import write_json

if TYPE_CHECKING:
    from rlhf_lightning.quickstart.compare import Judged

BASELINE = "sft"
Splits = Mapping[str, Mapping[str, "Judged"]]


def write_evaluation(out: Path, splits: Splits, quality: Mapping[str, float | None]) -> None:
    """Write generations and results.

    Args:
        out: The evaluation's directory.
        splits: By the name of a set of prompts, what each model said; the first was measured (score, KL) too.
        quality: Of the reward model, from `reward_model_quality`.
    """
    models = list(next(iter(splits.values())))
    for model in models:
        rows = [row for split, judged in splits.items() for row in _rows(split, judged[model])]
        path = out / "generations" / f"{model}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    judges = {f"gold, {split}": _judge(judged) for split, judged in splits.items()}
    results = {
        "outputs": {"reference": BASELINE, "models": {m: _outputs(next(iter(splits.values()))[m]) for m in models}},
        "preference": {"baseline": BASELINE, "models": models, "judges": judges},
        "trust": {
            "accuracy": {"value": quality["pair_accuracy"], "pairs": round(quality["pairs"] or 0)},
            "length": {"labelers_longer": {"value": quality["length_baseline"]}},
        },
    }
    for name, result in results.items():
        write_json(out / "results" / f"{name}.json", {"section": name, "result": result})


def write_page(out: Path, root: Path, head: Mapping[str, Any], command: list[str]) -> Path:
    """Write the page on the evaluation.

    Args:
        out: The evaluation's directory.
        root: Where the stages' runs are.
        head: Of report.json: commit, versions, seed, seconds.
        command: What made it.

    Returns:
        The HTML page.
    """
    about = {
        "command": command,
        "models": {name: {"source": str(root / name)} for name in ("base", "sft", "ppo")},
        "rewards": {"reward": {"source": str(root / "reward")}},
        "reference": BASELINE,
        "baseline": BASELINE,
        **{name: head.get(name) for name in ("commit", "versions", "wall_s")},
    }
    write_json(out / "evaluation.json", about)
    return write_page_report(ReportSettings(str(out), title="Quickstart: base, SFT and PPO"))


def _rows(split: str, judged: Judged) -> list[dict[str, Any]]:
    rows = []
    for sample, (responses, golds) in enumerate(zip(judged.rounds, judged.gold, strict=True)):
        for number, (row, response, gold) in enumerate(zip(judged.rows, responses, golds, strict=True)):
            about = {"id": row.get("id", f"{split}-{number}"), "sample": sample, "prompt": row["prompt"]}
            said = {"response": response.text, "ended": response.ended, "tokens": response.tokens}
            scores = {} if math.isnan(response.score) else {"reward": response.score}
            kl = None if math.isnan(response.kl) else response.kl
            rows.append(about | said | {"kl": kl, "scores": scores, "gold": gold, "category": row["category"]})
    return rows


def _outputs(judged: Judged) -> dict[str, Any]:
    fields = {"kl": "kl", "response_tokens": "tokens", "eos_rate": "ended"}
    measured = {name: _interval(judged.per_prompt(field)) for name, field in fields.items()}
    return measured | {"scores": {"reward": _interval(judged.per_prompt("score"))}}


def _judge(judged: Mapping[str, Judged]) -> dict[str, Any]:
    baseline = judged[BASELINE]
    won = {model: one.wins_over(baseline) for model, one in judged.items() if model != BASELINE}
    return {
        "kind": "scores",
        "trained_against": {},
        "win_rates": {model: _summary(values, baseline.rows) for model, values in won.items()},
    }


def _summary(values: list[float], rows: list[dict[str, Any]]) -> dict[str, Any]:
    groups: dict[str, list[float]] = {}
    for value, row in zip(values, rows, strict=True):
        groups.setdefault(row["category"], []).append(value)
    by_category = {c: {"win_rate": asdict(rate_interval(v)), "prompts": len(v)} for c, v in sorted(groups.items())}
    return {"win_rate": asdict(rate_interval(values)), "prompts": len(values), "by_category": by_category}


def _interval(values: list[float]) -> dict[str, float] | None:
    return None if any(math.isnan(v) for v in values) else asdict(mean_interval(values))
