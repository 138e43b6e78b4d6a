"""A directory as an evaluation leaves it, with made-up numbers and every section; some texts try to break out."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

MODELS = ("base", "sft", "ppo", "ppo_ptx")
EVIL = (
    "</script><script>document.title='broken'</script><img src=x onerror=document.title=1> & \"quotes\" | `code` \u2028"
)


def share(mean: float, width: float = 0.04, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "low": mean - width, "high": mean + width, **more}


def trust_share(value: float, width: float = 0.04) -> dict[str, Any]:
    return {"value": value, "low": value - width, "high": value + width, "pairs": 400, "prompts": 60}


def outputs() -> dict[str, Any]:
    made = zip(MODELS, (34.5, 0.0, 3.2, 3.0), (-1.7, -0.5, -0.04, -0.1), strict=True)
    models = {
        name: {
            "kl": share(kl, 0.1 * kl),
            "entropy": share(1.2, 0.1),
            "response_tokens": share(12.8, 0.5),
            "eos_rate": share(0.95, 0.02),
            "distinct_2": 0.81,
            "scores": {"reward": share(score, 0.1), "other": share(score / 2, 0.08)},
            "responses": 120,
        }
        for name, kl, score in made
    }
    return {"reference": "sft", "samples_per_prompt": 1, "models": models}


def preference() -> dict[str, Any]:
    wins = {"base": 0.11, "ppo": 0.628, "ppo_ptx": 0.605}

    def summary(mean: float) -> dict[str, Any]:
        counts = {"prompts": 120, "comparisons": 120, "wins": 70, "ties": 10, "losses": 40, "inconsistent": 0}
        return {
            "win_rate": share(mean, 0.045),
            **counts,
            "excluded": {"missing": 1, "failed": 0, "empty": 0},
            "empty": 1,
        }

    def judge(trained: bool) -> dict[str, Any]:
        by_category = {c: {"win_rate": share(0.5 + 0.01 * i, 0.15), "prompts": 12} for i, c in enumerate("abcdef")}
        every = [0.11, 0.5, 0.628, 0.605]
        matrix = {
            a: {b: summary(0.5 + (every[i] - every[j]) / 2) for j, b in enumerate(MODELS) if a != b}
            for i, a in enumerate(MODELS)
        }
        elo = {
            m: {"elo": share(1000 + 400 * (w - 0.5), 30), "bradley_terry": share(w - 0.5, 0.1)} for m, w in wins.items()
        }
        return {
            "kind": "scores",
            "trained_against": {m: trained and m.startswith("ppo") for m in MODELS},
            "win_rates": {
                m: summary(w) | {"length_controlled": summary(w - 0.02), "by_category": by_category}
                for m, w in wins.items()
            },
            "matrix": matrix,
            "ratings": elo | {"sft": {"elo": share(1000, 0), "bradley_terry": share(0, 0)}},
        }

    return {"baseline": "sft", "models": list(MODELS), "judges": {"gold": judge(False), "reward": judge(True)}}


def task(name: str, model: str, **metrics: float) -> dict[str, Any]:
    found = {m: {"value": v, "low": 0.95 * v, "high": 1.05 * v, "n": 100} for m, v in metrics.items()}
    return {"task": name, "model": model, "n": 100, "metrics": found, "categories": {"health": found}, "notes": []}


def tasks() -> dict[str, Any]:
    made = {
        model: {
            "perplexity": task("perplexity", model, nats_per_token=3.1 + 0.1 * i, perplexity=22.0 + i),
            "squad": task("squad", model, f1=0.5 - 0.03 * i, exact_match=0.4 - 0.03 * i),
            "xstest": task("xstest", model, refusal_rate=0.3 + 0.05 * i),
        }
        for i, model in enumerate(MODELS)
    }
    made["sft"]["squad"]["metrics"]["f1_answerable"] = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 61}
    return {"models": made, "harms": {"perplexity": False, "squad": False, "xstest": True}}


def lm_eval() -> dict[str, Any]:
    return {"models": {m: {"piqa": {"acc,none": 0.61, "acc_stderr,none": 0.05}} for m in MODELS}}


def trust() -> dict[str, Any]:
    curve = [
        {"low": i / 10, "high": (i + 1) / 10, "pairs": 80 - 5 * i, "confidence": i / 10 + 0.05,
         "accuracy": 0.5 + (i - 4.5) * 0.08, "error": 0.03}
        for i in range(10)
    ]  # fmt: skip
    slices = [
        {"dimension": "category", "value": f"family number {i}", "accuracy": trust_share(0.55 + 0.03 * i, 0.06),
         "lower": trust_share(-0.05), "worse": i == 0, "train_rows": 40 * i, "starved": i == 0}
        for i in range(9)
    ]  # fmt: skip
    kls = (0.0, 1.0, 2.5, 5.0, 9.0)
    points = [
        {
            "name": f"kl {k}",
            "kl": k,
            "proxy": share(0.3 * math.sqrt(k), 0.05),
            "gold": share(0.2 * math.sqrt(k) - 0.04 * k, 0.05),
        }
        for k in kls
    ]
    labelers = [
        {"name": n, "model": trust_share(0.68), "others": trust_share(0.79), "fault": "noise" if n == "dana" else ""}
        for n in ("alma", "bruno", "dana")
    ]
    finding = {"severity": 1, "what": "In refusals it is hardly better than a coin.", "evidence": "52 % of 120 pairs.",
               "todo": "Rank more of them."}  # fmt: skip
    return {
        "accuracy": trust_share(0.678),
        "findings": [finding],
        "calibration": {"ece": 0.041, "temperature": 1.2, "curve": curve},
        "slices": slices,
        "labelers": labelers,
        "length": {"model_longer": trust_share(0.53), "labelers_longer": trust_share(0.47)},
        "distribution": [{"policy": "ppo", "of": "score", "ks": 0.31, "ks_by_chance": 0.1,
                          "above_most": trust_share(0.05), "alarm": True}],
        "overoptimisation": [{"of": "policies", "points": points, "parting": {"verdict": "falls", "peak": "kl 2.5"}}],
        "left_out": {"flags": "no row has `flags`"},
    }  # fmt: skip


def generations(directory: Path, prompts: int = 120) -> None:
    rng = random.Random(0)
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "warm",
        "mat",
        "and",
        "looked",
        "at",
        "every",
        "bird",
        "in",
        "green",
        "trees",
        "of",
        "our",
        "old",
        "garden",
    ]
    for model in MODELS:
        rows = []
        for i in range(prompts):
            text = " ".join(rng.choices(words, k=rng.randint(3, 60))).capitalize() + "."
            rows.append(
                {"id": f"p{i}", "sample": 0, "prompt": f"Say something about topic {i}. {EVIL if i == 0 else ''}",
                 "response": EVIL if i == 0 else text, "ended": i % 9 > 0, "tokens": len(text.split()),
                 "kl": rng.random() * 5, "scores": {"reward": rng.gauss(0, 1)}}
            )  # fmt: skip
        path = directory / "generations" / f"{model}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(directory: Path, stage: str, tags: dict[str, float]) -> Path:
    """A finished run of a stage: stage.json, a data card, a configuration, event files."""
    from torch.utils.tensorboard import SummaryWriter

    from rlhf_lightning.data.card.card import DataCard, write_card
    from rlhf_lightning.data.kinds import Ranking

    rng = random.Random(1)
    path = directory / stage
    (path / "final").mkdir(parents=True)
    info = {"stage": stage, "base_name": "embedded:tiny", "seed": 1, "versions": {"torch": "2.13.0"},
            "data": {"train": {"files": [f"{stage}.jsonl"], "fingerprint": "ab" * 32}}}  # fmt: skip
    (path / "final" / "stage.json").write_text(json.dumps(info))
    (path / "config.yaml").write_text("seed_everything: 1\n")
    card = DataCard("data.init_args.")
    for i in range(60):
        texts = (f"a good answer {i}", "no")
        row = Ranking(prompt=f"prompt {i}", responses=texts, ranks=(1, 2), labeler="alma", category=f"c{i % 4}")
        card.split("train", Ranking).add(row, 3, [3, 1])
    card.close("train", {"files": [f"{stage}.jsonl"], "skipped": 0})
    write_card(path / "final", card.as_dict())
    with SummaryWriter(str(path / "tensorboard")) as writer:
        for step in range(400):
            for tag, final in tags.items():
                writer.add_scalar(tag, final + math.exp(-step / 80) + 0.1 * rng.gauss(0, 1), step)
    return path


def evaluation(root: Path) -> Path:
    """All of it."""
    out = root / "evaluation"
    runs = {
        "sft": run(root, "sft", {"train/loss": 1.2, "val/loss": 1.4}),
        "ppo": run(root, "ppo", {"rollout/score_mean": 0.1, "rollout/kl": 3.0, "rollout/response_tokens": 12,
                                 "rollout/eos_rate": 0.9, "rollout/entropy": 1.0, "policy/clip_frac": 0.05}),
    }  # fmt: skip
    results = {
        "outputs": outputs(), "preference": preference(), "tasks": tasks(), "lm_eval": lm_eval(), "trust": trust()
    }  # fmt: skip
    for name, result in results.items():
        path = out / "results" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"section": name, "inputs": "x", "seconds": 1.0, "result": result}))
    models = {name: {"source": str(runs.get(name, "embedded:tiny"))} for name in MODELS}
    about = {
        "command": ["python", "-m", "rlhf_lightning", "evaluate", "--config", "evaluate.yaml"],
        "settings": {"models": {name: m["source"] for name, m in models.items()}, "seed": 1},
        "commit": "0123456789ab", "versions": {"torch": "2.13.0", "lightning": "2.6.6"}, "python": "3.11.2",
        "device": "cpu", "models": models, "reference": "sft", "baseline": "sft", "rewards": {},
        "prompts": {"files": "prompts.jsonl", "rows": 120, "fingerprint": "cd" * 32}, "wall_s": 71.5,
        "sections": dict.fromkeys(results, 1.0),
    }  # fmt: skip
    (out / "evaluation.json").write_text(json.dumps(about))
    generations(out)
    return out
