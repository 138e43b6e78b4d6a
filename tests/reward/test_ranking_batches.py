"""Rankings as batches: parts of whole prompts, and where each response ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf_lightning.reward.data import RankedPrompt, RankingDataModule, _best, collate

ROWS = [
    RankedPrompt([5, 6, 7], [[10, 11, 2], [12, 2]], [2, 1]),
    RankedPrompt([20, 21], [[22], [23, 24, 25, 2], [26, 2]], [1, 2, 3]),
    RankedPrompt([30], [[31, 2]], [1]),
]
TOKENS = [8, 9, 3]
"""Of each prompt, counted once, and its responses."""


@pytest.mark.parametrize("rows", [[0], [1, 2], [0, 1, 2], [2, 0]])
def test_every_prompt_and_response_once(rows: list[int]) -> None:
    own = [ROWS[r] for r in rows]
    tokens, ends = collate(own, pad_id=99).ragged()
    responses = [r for row in own for r in row.responses]
    assert tokens.ids.tolist() == [t for row in own for t in row.prompt_ids] + [t for r in responses for t in r]
    assert tokens.ids[ends].tolist() == [r[-1] for r in responses]
    last = [len(row.prompt_ids) + len(r) - 1 for row in own for r in row.responses]
    assert tokens.positions[ends].tolist() == last


@pytest.mark.parametrize(
    ("limit", "expected"), [(100, [[0, 1, 2]]), (17, [[0, 1], [2]]), (12, [[0], [1, 2]]), (1, [[0], [1], [2]])]
)
def test_parts_hold_whole_prompts_and_the_weight_of_the_batch(limit: int, expected: list[list[int]]) -> None:
    batch = collate(ROWS, pad_id=99)
    for step, weight in ((None, 3), (20.0, 20)):
        batch.step_weight = step
        parts = list(batch.parts(limit))
        for part, rows in zip(parts, expected, strict=True):
            alone = collate([ROWS[r] for r in rows], pad_id=99)
            assert part.step_weight == weight
            assert part.prompt.tolist() == alone.prompt.tolist()
            assert part.ranks.tolist() == alone.ranks.tolist()
            assert part.ragged()[0].ids.tolist() == alone.ragged()[0].ids.tolist()
            assert len(part.ragged()[0]) == sum(TOKENS[r] for r in rows)


def test_a_row_is_a_prompt_with_its_responses() -> None:
    row = collate(ROWS, pad_id=99).row(1)
    assert row.ragged()[0].ids.tolist() == [20, 21, 22, 23, 24, 25, 2, 26, 2]
    assert row.prompt.tolist() == [0, 0, 0]
    assert (row.weight, row.step_weight) == (1.0, None)


def test_moving_a_batch_keeps_everything() -> None:
    batch = collate(ROWS, pad_id=99)
    batch.step_weight = 5.0
    moved = batch.to(torch.device("cpu"))
    assert moved.step_weight == 5.0
    assert moved.ragged()[0].ids.tolist() == batch.ragged()[0].ids.tolist()


def test_scores_are_centred_on_the_best_response() -> None:
    assert _best(ROWS[0]) == RankedPrompt([5, 6, 7], [[12, 2]], [1])
    assert _best(ROWS[1]) == RankedPrompt([20, 21], [[22]], [1])
    data: Any = SimpleNamespace(items={"train": ROWS}, val_batch_size=1, collate=lambda rows: rows)
    batches: list[Any] = list(RankingDataModule.centering_batches(data))
    assert batches == [[_best(row) for row in ROWS]]
    data.items["demonstrations"] = ROWS[1:] * 3
    batches = list(RankingDataModule.centering_batches(data))
    assert [[row.prompt_ids for row in rows] for rows in batches] == [[[20, 21], [30]] * 2, [[20, 21], [30]]]


@pytest.mark.parametrize(
    ("meta", "ids", "expected"),
    [
        ({}, [8, 2], [8, 2]),
        ({"ended": [True, False]}, [8, 2], [8]),
        ({"ended": [False, True]}, [8, 2], [8, 2]),
        ({"ended": [False]}, [8, 2], [8, 2]),
        ({"ended": [True, False]}, [8, 9], [8, 9]),
        ({"ended": [True, False]}, [2], [2]),
    ],
)
def test_an_unfinished_response_has_no_eos(meta: dict[str, Any], ids: list[int], expected: list[int]) -> None:
    """But it has a token: a score is read at a response's last one."""
    template = SimpleNamespace(encode_response=lambda _: ids, eos_id=2)
    data: Any = SimpleNamespace(limits=SimpleNamespace(cut_response=lambda x: x), template=template)
    row: Any = SimpleNamespace(meta=meta, responses=("", ""))
    assert RankingDataModule._response(data, row, 1) == expected
