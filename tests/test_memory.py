"""Batches cut into parts by their tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.errors import UserError
from rlhf_lightning.memory import MemorySettings, split_by_tokens


def split(tokens: list[int], limit: int) -> list[list[int]]:
    return [part.tolist() for part in split_by_tokens(torch.tensor(tokens), limit)]


def test_a_row_above_the_limit_goes_alone() -> None:
    assert split([9], 5) == [[0]]
    assert split([1, 9, 1, 2], 5) == [[0], [1], [2, 3]]
    assert split([9, 9], 1) == [[0], [1]]


def test_a_part_may_be_full() -> None:
    assert split([2, 3, 5, 1, 4], 5) == [[0, 1], [2], [3, 4]]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 20))
def test_parts_hold_every_row_once_in_order_and_as_many_as_fit(tokens: list[int], limit: int) -> None:
    parts = split(tokens, limit)
    assert [row for part in parts for row in part] == list(range(len(tokens)))
    for part in parts:
        assert len(part) == 1 or sum(tokens[row] for row in part) <= limit
    for part, after in pairwise(parts):
        assert sum(tokens[row] for row in part) + tokens[after[0]] > limit


def test_row_numbers_can_index() -> None:
    (part,) = split_by_tokens(torch.tensor([1, 2]), 5)
    assert torch.arange(2)[part].tolist() == [0, 1]


@pytest.mark.parametrize("tokens", [0, -1])
def test_a_part_must_hold_a_token(tokens: int) -> None:
    with pytest.raises(UserError, match=r"micro_batch_tokens"):
        MemorySettings(tokens)
