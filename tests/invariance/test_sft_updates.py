"""What must not change an SFT update: splitting, packing, padding, order of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.sft.packing import SFTBatch
from tests.invariance.updates import EXACT, REORDERED, SETTINGS, Weights, distance, train

ROWS = "configs/tiny/data/demonstrations.jsonl"


class Data(DemonstrationDataModule):
    """Demonstrations, whose batches may be tampered with."""

    def __init__(self, batch_size: int = 8, tamper: Any = None, **settings: Any) -> None:
        super().__init__(ROWS, batch_size=batch_size, max_prompt_tokens=128, seed=5, **settings)
        self.tamper = tamper or (lambda batch: batch)

    def collate(self, items: Any) -> SFTBatch:
        batch: SFTBatch = self.tamper(super().collate(items))
        return batch


def other_padding(batch: SFTBatch) -> SFTBatch:
    noise = torch.randint_like(batch.input_ids, 3, 200)
    return replace(batch, input_ids=torch.where(batch.segments > 0, batch.input_ids, noise))


def more_padding(batch: SFTBatch) -> SFTBatch:
    wider = (torch.nn.functional.pad(x, (0, 5)) for x in (batch.input_ids, batch.loss_mask, batch.segments))
    return SFTBatch(*wider)  # type: ignore[arg-type]


def other_order(batch: SFTBatch) -> SFTBatch:
    order = torch.randperm(len(batch.input_ids))
    return SFTBatch(batch.input_ids[order], batch.loss_mask[order], batch.segments[order])


def run(root: Path, data: Data, **trainer: Any) -> tuple[Weights, Weights]:
    return train(root, SFTModule("embedded:tiny", **SETTINGS), data, **trainer)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Weights]:
    return run(tmp_path_factory.mktemp("sft"), Data())


VARIATIONS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "again": (lambda: Data(), {}, EXACT),
    "other padding tokens": (lambda: Data(tamper=other_padding), {}, EXACT),
    "more padding": (lambda: Data(tamper=more_padding), {}, REORDERED),
    "other order of rows": (lambda: Data(tamper=other_order), {}, REORDERED),
    "two micro-batches": (lambda: Data(4), {"accumulate_grad_batches": 2}, REORDERED),
    "eight micro-batches": (lambda: Data(1), {"accumulate_grad_batches": 8}, REORDERED),
    "uneven micro-batches": (lambda: Data(3), {"accumulate_grad_batches": 8}, REORDERED),
    "loader processes": (lambda: Data(num_workers=2), {}, EXACT),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_an_update_does_not_depend_on(name: str, plain: tuple[Weights, Weights], tmp_path: Path) -> None:
    make, trainer, tolerance = VARIATIONS[name]
    whole = plain
    if name == "uneven micro-batches":  # one step of all 24 rows
        whole = run(tmp_path / "whole", Data(24))
    assert distance(whole, run(tmp_path, make(), **trainer)) <= tolerance


def test_packing_does_not_change_an_update(tmp_path: Path) -> None:
    """All rows in one step, for packing decides which rows share a batch."""
    separate = run(tmp_path / "separate", Data(1000))
    packed = run(tmp_path / "packed", Data(1000, packing=True))
    assert distance(separate, packed) <= REORDERED


def test_other_rows_do_change_it(plain: tuple[Weights, Weights], tmp_path: Path) -> None:
    assert distance(plain, run(tmp_path, Data(limit=23))) > 10 * REORDERED
