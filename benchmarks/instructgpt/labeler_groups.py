"""Rankings by ten labelers: the quickstart has four, too few for five folds of groups."""

from __future__ import annotations

from pathlib import Path

from benchmarks.instructgpt.matrix import CONFIGS
from rlhf_lightning.quickstart.labelers import Labeler
from rlhf_lightning.quickstart.make_data import read_rows, write_rows
from rlhf_lightning.quickstart.rows import Row, ranking_rows

LABELERS = (
    Labeler("ada", "instruction", constraint=0.4, noise=0.12),
    Labeler("ben", "instruction", constraint=0.2, detail=0.1, noise=0.14),
    Labeler("cleo", "content", detail=0.6, noise=0.12, tie=0.03),
    Labeler("dev", "content", detail=0.4, noise=0.13),
    Labeler("eva", "form", form=0.4, noise=0.12),
    Labeler("finn", "form", form=0.3, detail=0.2, noise=0.13),
    Labeler("gil", "brevity", brevity=0.4, noise=0.12),
    Labeler("hana", "brevity", brevity=0.25, form=0.1, noise=0.14),
    Labeler("ivo", "plain", noise=0.12, tie=0.04),
    Labeler("june", "plain", constraint=0.1, noise=0.16, error=0.05),
)
"""Five tastes, two people each, as far apart as the quickstart's four."""


def write_group_rankings(directory: Path, seed: int = 0) -> None:
    """The quickstart's responses ranked anew: training prompts by one labeler each, held-out ones by all ten."""
    for name, all_labelers in (("rankings", False), ("rankings_heldout", True)):
        rows = {row["prompt"]: row for row in read_rows(CONFIGS / "data" / f"{name}.jsonl")}
        prompts: list[Row] = [row | {"id": row["id"].removesuffix(f"-{row['labeler']}")} for row in rows.values()]
        samples = [list(zip(row["responses"], row["ended"], strict=True)) for row in prompts]
        directory.mkdir(parents=True, exist_ok=True)
        write_rows(directory / f"{name}.jsonl", ranking_rows(prompts, samples, LABELERS, seed, all_labelers))
