"""Pretraining text between demonstrations: how much, which, and with what loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.pretraining_text import PretrainingText, TokenSequence
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.mixing import MixedRows, sequences_for
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.sft.packing import SFTBatch, SFTExample
from tests.invariance.updates import EXACT, REORDERED, SETTINGS, distance, train
from tests.ppo.test_ppo_run import trainer

DEMONSTRATION = SFTExample([7, 8, 9], [False, True, True])


def mixed(rows: int = 3, sequences: int = 5, per_epoch: int = 2) -> MixedRows:
    text = PretrainingText([TokenSequence([100 + i] * 4) for i in range(sequences)], 0)
    return MixedRows([[DEMONSTRATION]] * rows, text, per_epoch)


@pytest.mark.parametrize(
    ("share", "tokens", "length", "count"), [(0.1, 900, 10, 10), (0.5, 100, 20, 5), (0.1, 94, 10, 1), (0.01, 9, 50, 1)]
)
def test_share_is_of_tokens(share: float, tokens: int, length: int, count: int) -> None:
    assert sequences_for(share, tokens, length) == count


def test_epochs_take_the_next_sequences() -> None:
    items = mixed()
    assert len(items) == 5
    taken = []
    for epoch in range(5):
        rows = [items[items.row(epoch, n)] for n in range(len(items))]
        assert rows[:3] == [[DEMONSTRATION]] * 3
        taken += [row[0].ids[0] for row in rows[3:]]
    assert taken == [100 + items.text.number(p) for p in range(10)]
    assert sorted(taken[:5]) == sorted(taken[5:]) == list(range(100, 105))


def test_every_token_of_a_text_is_a_target() -> None:
    (example,) = mixed()[3]
    assert example.is_response == [True] * 4
    assert mixed()[3:][0] == mixed()[3]


class Data(DemonstrationDataModule):
    """Keeps its training batches' first tokens and targets."""

    def __init__(self, batch_size: int = 8, **settings: Any) -> None:
        files = "configs/tiny/data/demonstrations.jsonl", "configs/tiny/data/pretraining.jsonl"
        self.batches: list[SFTBatch] = []
        sizes = {"max_prompt_tokens": 128, "max_response_tokens": 32, "pretrain_tokens": 48}
        super().__init__(files[0], pretrain=files[1], batch_size=batch_size, seed=5, **(sizes | settings))

    def collate(self, items: Any) -> SFTBatch:
        batch = super().collate(items)
        self.batches.append(batch)
        return batch


def run(root: Path, data: Data, **trainer: Any) -> Any:
    return train(root, SFTModule("embedded:tiny", **SETTINGS), data, **trainer)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("mixed"), Data())


@pytest.mark.parametrize("packing", [False, True])
def test_an_epoch_has_the_share_asked_for(tmp_path: Path, packing: bool) -> None:
    data = Data(pretrain_share=0.25, packing=packing)
    run(tmp_path, data, max_epochs=1)
    tokens = {True: 0, False: 0}
    for batch in data.batches:
        for row, targets in zip(batch.segments, batch.loss_mask, strict=True):
            whole = int((row > 0).sum())
            tokens[whole == 48 and bool(targets[1:48].all())] += whole
    # To the nearest sequence of 48 tokens.
    assert abs(tokens[True] - 0.25 * sum(tokens.values())) <= 48


VARIATIONS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "again": (Data, {}, EXACT),
    "two micro-batches": (lambda: Data(4), {"accumulate_grad_batches": 2}, REORDERED),
    "loader processes": (lambda: Data(num_workers=2), {}, EXACT),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_an_update_does_not_depend_on(name: str, plain: Any, tmp_path: Path) -> None:
    make, settings, tolerance = VARIATIONS[name]
    assert distance(plain, run(tmp_path, make(), **settings)) <= tolerance


def test_but_on_the_share(plain: Any, tmp_path: Path) -> None:
    assert distance(plain, run(tmp_path, Data(pretrain_share=0.4))) > 10 * REORDERED


def test_the_papers_share_is_the_default(plain: Any, tmp_path: Path) -> None:
    assert distance(plain, run(tmp_path, Data(pretrain_share=0.1))) == EXACT


def test_validation_before_fitting_does_not_leave_the_text_out(plain: Any, tmp_path: Path) -> None:
    data, module = Data(val="configs/tiny/data/demonstrations.jsonl"), SFTModule("embedded:tiny", **SETTINGS)
    fit = trainer(tmp_path, max_epochs=1, inference_mode=False)
    fit.validate(module, datamodule=data, verbose=False)
    assert not isinstance(data.items["train"], MixedRows)
    fit.fit(module, datamodule=data)
    assert isinstance(data.items["train"], MixedRows)
    assert torch.is_tensor(data.batches[0].input_ids)
