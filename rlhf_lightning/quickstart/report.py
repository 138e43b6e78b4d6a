"""The quickstart's report: `report.json` for scripts, `report.md` for people, the table on the screen."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from rlhf_lightning.artefacts import versions
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.provenance import commit

NAMES = {"base": "base model", "sft": "SFT", "ppo": "PPO"}


def write_report(root: Path, result: dict[str, Any], seed: int, wall_s: float) -> str:
    """Write `report.json` and `report.md` into a directory.

    Args:
        root: The directory.
        result: From `compare`.
        seed: The run's seed.
        wall_s: Wall-clock seconds of all stages and the comparison.

    Returns:
        The Markdown text.
    """
    machine = {"cpu": platform.processor() or platform.machine(), "system": platform.platform()}
    head = {"commit": commit(), "seed": seed, "wall_s": round(wall_s, 1), "versions": versions(), "machine": machine}
    (root / "report.json").write_text(json.dumps(head | result, indent=2) + "\n")
    text = markdown(head, result)
    (root / "report.md").write_text(text)
    return text


def markdown(head: dict[str, Any], result: dict[str, Any]) -> str:
    """The report as Markdown."""
    columns = [
        "model",
        "gold, seen families",
        "gold, unseen families",
        "RM score",
        "wins vs SFT",
        "KL",
        "tokens",
        "EOS",
    ]
    rows = [[NAMES[name], *_model_cells(model)] for name, model in result["models"].items()]
    reward, gain = result["reward_model"], result["ppo_minus_sft_gold"]
    families = [[f, *(f"{means[m]:.2f}" for m in NAMES)] for f, means in result["by_family"].items()]
    samples = "\n\n".join(
        f"**{s['prompt']}**\n\n" + markdown_table(["model", "response"], [[NAMES[m], s[m]] for m in NAMES])
        for s in result["samples"]
    )
    others = [f"{stage} {seed}" for stage, seed in result.get("stage_seeds", {}).items() if seed != head["seed"]]
    seeds = f"seed {head['seed']}" + (f" (of {' and '.join(others)})" if others else "")
    return f"""# Quickstart report

Commit {head["commit"]}, {seeds}, {head["wall_s"] / 60:.1f} minutes. Prompts are held out: their topics
occur nowhere in training, and the unseen families of instructions neither. Gold is the program that checks the
instruction (0 to 1); brackets are 95 % bootstrap intervals over prompts; KL is to the SFT model, nats per response.

{markdown_table(columns, rows)}

PPO minus SFT, gold, prompt by prompt: seen families {_cell(gain["seen"])}, unseen families {_cell(gain["unseen"])}.

Reward model on held-out rankings: {reward["pair_accuracy"]:.1%} of {reward["pairs"]:.0f} pairs right; "the longer
one wins" gets {reward["length_baseline"]:.1%}; two labelers agree on {reward["labeler_agreement"]:.1%}.

## Gold by family of instructions

{markdown_table(["family", *NAMES.values()], families)}

## Three prompts side by side

{samples}
"""


def _cell(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _model_cells(model: dict[str, Any]) -> list[str]:
    intervals = [_cell(model[k]) for k in ("gold_seen", "gold_unseen", "score", "win_rate_vs_sft")]
    return [*intervals, f"{model['kl']:.2f}", f"{model['response_tokens']:.1f}", f"{model['eos_rate']:.2f}"]
