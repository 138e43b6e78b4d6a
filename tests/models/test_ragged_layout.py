"""How a layout is built, and the attention interface that transformers' models call."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlhf_lightning.models.ragged import RaggedLayout, from_lengths, from_padded, from_prompts
from rlhf_lightning.models.ragged_attention import _summed, attend, attention


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_rows_of_similar_length_share_a_block(lengths: list[int]) -> None:
    """Padding is a bounded part of a block; every row is in one; and no two neighbouring blocks could be one."""
    blocks = from_lengths(torch.arange(sum(lengths)), torch.tensor(lengths)).layout.blocks
    own = [sorted(block.valid.sum(1).tolist()) for block in blocks]
    assert [n for rows in own for n in rows] == sorted(lengths)
    assert all(block.keys.shape[1] == rows[-1] <= 1.25 * rows[0] + 64 for block, rows in zip(blocks, own, strict=True))
    assert all(b[0] > 1.25 * a[0] + 64 for a, b in pairwise(own))
    seen = torch.cat([block.queries[block.query_valid] for block in blocks])
    assert seen.sort().values.tolist() == list(range(sum(lengths)))


def test_what_a_layout_says() -> None:
    plain = from_lengths(torch.arange(5), torch.tensor([3, 2])).layout
    assert not plain.shared
    assert [block.square for block in plain.blocks] == [True]
    one = torch.ones(1, 2, dtype=torch.bool)
    shared = from_prompts(torch.ones(1, 2), one, torch.ones(1, 2), one, torch.tensor([0])).layout
    assert shared.shared
    assert [block.square for block in shared.blocks] == [True, False]
    assert shared.blocks[1].visible.tolist() == [[True, True, True, False], [True, True, True, True]]


def test_rows_without_tokens_vanish() -> None:
    mask = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])
    batch = from_padded(torch.arange(9).view(3, 3), mask)
    assert batch.ids.tolist() == [1, 2, 6]
    assert batch.positions.tolist() == [0, 1, 0]
    assert sorted(batch.layout.blocks[0].valid.sum(1).tolist()) == [1, 2]


def test_a_prompt_without_responses_stays() -> None:
    prompts, mask = torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2, dtype=torch.bool)
    batch = from_prompts(prompts, mask, torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([1]))
    assert batch.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.positions.tolist() == [0, 1, 0, 1, 2, 3]
    assert batch.layout.blocks[-1].keys.tolist() == [[2, 3, 4, 5]]


def test_sums_by_token_are_float32() -> None:
    """A prompt that 300 responses look at: 16-bit sums of small terms would stand still."""
    total = _summed(2, torch.tensor([1] * 1000), torch.ones(1000, 1, dtype=torch.bfloat16))
    assert total.flatten().tolist() == [0, 1000]
    assert total.dtype == torch.float32


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 6, 4, generator=generator) for heads in (4, 2, 2))
    return q, k, v


LAYER: Any = SimpleNamespace(num_key_value_groups=2, is_causal=True, training=True)


@pytest.fixture
def one() -> RaggedLayout:
    return from_lengths(torch.arange(6), torch.tensor([6])).layout


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("dropout", [0.0, 1e-30])
def test_the_interface_scales_as_sdpa(scaling: float | None, dropout: float, one: RaggedLayout) -> None:
    """With and without a dropout that drops nothing: two programs."""
    expected, _ = sdpa_attention_forward(LAYER, *inputs(), None, scaling=scaling)
    found, weights = attention(LAYER, *inputs(), None, scaling=scaling, dropout=dropout, ragged=one)
    assert weights is None
    assert found.shape == expected.shape == (1, 6, 4, 4)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_interface_drops_out(one: RaggedLayout) -> None:
    plain, _ = attention(LAYER, *inputs(), None, ragged=one)
    dropped, _ = attention(LAYER, *inputs(), None, dropout=0.9, ragged=one)
    assert not torch.allclose(dropped, plain)
    assert (dropped[:, 0] == 0).any()


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_what_it_cannot_do_is_refused(name: str, one: RaggedLayout) -> None:
    with pytest.raises(NotImplementedError, match=name):
        attention(LAYER, *inputs(), None, ragged=one, **{name: 3.0})
    attention(LAYER, *inputs(), None, ragged=one, **{name: None})


def test_a_layout_without_products() -> None:
    """Short rows are products, long ones and those of a layout without products the kernel's: exactly as it rounds."""
    generator = torch.Generator().manual_seed(0)
    for size, products in ((20, True), (20, False), (220, True)):
        q, k, v = (torch.randn(size, 2, 8, generator=generator).to(torch.bfloat16) for _ in range(3))
        layout = from_lengths(torch.arange(size), torch.tensor([size])).layout
        found = attend(q, k, v, replace(layout, products=products), 0.3)
        rows = [x.transpose(0, 1)[None] for x in (q, k, v)]
        kernel = F.scaled_dot_product_attention(*rows, is_causal=True, scale=0.3)[0].transpose(0, 1)
        assert torch.equal(found, kernel) == (size > 200 or not products)
        assert torch.allclose(found.float(), kernel.float(), rtol=0.02, atol=0.02)


def test_without_a_layout_it_is_sdpa() -> None:
    mask = torch.ones(1, 1, 6, 6).tril().bool()
    for given_mask in (None, mask):
        expected, _ = sdpa_attention_forward(LAYER, *inputs(), given_mask, scaling=0.3)
        assert torch.equal(attention(LAYER, *inputs(), given_mask, scaling=0.3)[0], expected)
