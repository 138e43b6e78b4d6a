"""What must not change a reward-model update: splitting, padding, order of prompts and of responses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.reward.data import RankedPrompt, RankingBatch, RankingDataModule
from rlhf_lightning.reward.module import RewardModule
from tests.conftest import TinyRuns
from tests.invariance.updates import EXACT, REORDERED, SETTINGS, Weights, distance, train

ROWS = "configs/tiny/data/rankings.jsonl"


class Data(RankingDataModule):
    """Rankings, whose rows and batches may be tampered with."""

    def __init__(self, batch_size: int = 8, rows: Any = None, tamper: Any = None, **settings: Any) -> None:
        super().__init__(ROWS, batch_size=batch_size, max_prompt_tokens=128, max_response_tokens=32, seed=5, **settings)
        self.rows, self.tamper = rows or (lambda x: x), tamper or (lambda x: x)

    def collate(self, items: list[RankedPrompt]) -> RankingBatch:
        batch: RankingBatch = self.tamper(super().collate(self.rows(items)))
        return batch


def other_padding(batch: RankingBatch) -> RankingBatch:
    def noisy(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, ids, torch.randint_like(ids, 3, 200))

    return replace(
        batch,
        prompt_ids=noisy(batch.prompt_ids, batch.prompt_mask),
        response_ids=noisy(batch.response_ids, batch.response_mask),
    )


def more_padding(batch: RankingBatch) -> RankingBatch:
    left = {k: pad(getattr(batch, k), (4, 0)) for k in ("prompt_ids", "prompt_mask")}
    right = {k: pad(getattr(batch, k), (0, 3)) for k in ("response_ids", "response_mask")}
    return replace(batch, **left, **right)


def responses_reversed(rows: list[RankedPrompt]) -> list[RankedPrompt]:
    return [RankedPrompt(r.prompt_ids, r.responses[::-1], r.ranks[::-1]) for r in rows]


def run(
    tiny: TinyRuns, root: Path, data: Data, memory: MemorySettings | None = None, **trainer: Any
) -> tuple[Weights, Weights]:
    return train(
        root, RewardModule(str(tiny.root / "sft"), memory=memory or MemorySettings(), **SETTINGS), data, **trainer
    )


@pytest.fixture(scope="module")
def plain(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Weights]:
    return run(tiny, tmp_path_factory.mktemp("reward"), Data())


VARIATIONS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "again": (lambda: Data(), {}, EXACT),
    "other padding tokens": (lambda: Data(tamper=other_padding), {}, EXACT),
    "more padding": (lambda: Data(tamper=more_padding), {}, EXACT),
    "other order of prompts": (lambda: Data(rows=lambda rows: rows[::-1]), {}, REORDERED),
    "other order of responses": (lambda: Data(rows=responses_reversed), {}, REORDERED),
    "two micro-batches": (lambda: Data(4), {"accumulate_grad_batches": 2}, REORDERED),
    "eight micro-batches": (lambda: Data(1), {"accumulate_grad_batches": 8}, REORDERED),
    "one prompt a forward": (lambda: Data(), {"memory": MemorySettings(1)}, REORDERED),
    "a few prompts a forward": (lambda: Data(), {"memory": MemorySettings(200)}, REORDERED),
    "gradient checkpointing": (lambda: Data(), {"memory": MemorySettings(gradient_checkpointing=True)}, EXACT),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_an_update_does_not_depend_on(
    name: str, tiny: TinyRuns, plain: tuple[Weights, Weights], tmp_path: Path
) -> None:
    make, trainer, tolerance = VARIATIONS[name]
    assert distance(plain, run(tiny, tmp_path, make(), **trainer)) <= tolerance


def test_other_rows_do_change_it(tiny: TinyRuns, plain: tuple[Weights, Weights], tmp_path: Path) -> None:
    assert distance(plain, run(tiny, tmp_path, Data(limit=20))) > 10 * REORDERED
