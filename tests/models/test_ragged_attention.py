"""Attention without padding equals attention over each sequence alone: outputs and gradients, by another program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lightning.models import ragged_attention
from rlhf_lightning.models.ragged import Ragged, from_lengths, from_prompts
from rlhf_lightning.models.ragged_attention import attend

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=6)
RESPONSES = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=4)), min_size=1, max_size=4
)
Attend = Callable[[Tensor, Tensor, Tensor, Ragged], Tensor]


def alone(q: Tensor, k: Tensor, v: Tensor, tokens: list[int], scale: float) -> Tensor:
    """Outputs [T, H, D] of one sequence of tokens, head by head."""
    repeats = q.shape[1] // k.shape[1]
    heads = []
    for h in range(q.shape[1]):
        scores = q[tokens, h] @ k[tokens, h // repeats].T * scale
        unseen = torch.ones(len(tokens), len(tokens)).triu(1).bool()
        heads.append(torch.softmax(scores.masked_fill(unseen, -torch.inf), -1) @ v[tokens, h // repeats])
    return torch.stack(heads, 1)


def by_kernel(q: Tensor, k: Tensor, v: Tensor, batch: Ragged) -> Tensor:
    out: Tensor = ragged_attention._CpuAttention.apply(q, k, v, batch.layout, 0.3)
    return out


def by_torch(q: Tensor, k: Tensor, v: Tensor, batch: Ragged) -> Tensor:
    return ragged_attention._attention(q, k, v, batch.layout, 0.3, 0.0)


def agree(batch: Ragged, sequences: list[list[int]], own: list[int], attend: Attend, groups: int) -> None:
    """Compare in float64; sequence s owns its last `own[s]` tokens' outputs."""
    generator = torch.Generator().manual_seed(len(batch))
    size = len(batch)
    q, k, v = (torch.randn(size, n, 4, generator=generator).double().requires_grad_() for n in (4, groups, groups))
    cotangent = torch.randn(size, 4, 4, generator=generator).double()
    out = attend(q, k, v, batch)
    ours = torch.autograd.grad((out * cotangent).sum(), (q, k, v))
    expected = torch.zeros_like(out)
    for tokens, count in zip(sequences, own, strict=True):
        expected = expected.index_copy(0, torch.tensor(tokens[-count:]), alone(q, k, v, tokens, 0.3)[-count:])
    theirs = torch.autograd.grad((expected * cotangent).sum(), (q, k, v))
    assert torch.allclose(out, expected, atol=1e-10)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("attend", [by_kernel, by_torch])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("small", [0, 40_000])
def test_plain_sequences(attend: Attend, groups: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged_attention, "SMALL", small)

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(SIZES)
    def run(lengths: list[int]) -> None:
        batch = from_lengths(torch.arange(sum(lengths)), torch.tensor(lengths))
        sequences = [list(range(sum(lengths[:i]), sum(lengths[: i + 1]))) for i in range(len(lengths))]
        assert batch.positions.tolist() == [i for n in lengths for i in range(n)]
        agree(batch, sequences, lengths, attend, groups)

    run()


@pytest.mark.parametrize("attend", [by_kernel, by_torch])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("small", [0, 40_000])
def test_responses_that_share_prompts(attend: Attend, groups: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged_attention, "SMALL", small)

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(RESPONSES)
    def run(rows: list[tuple[int, list[int]]]) -> None:
        prompts, responses = [p for p, _ in rows], [r for _, many in rows for r in many]
        prompt = torch.tensor([b for b, (_, many) in enumerate(rows) for _ in many])

        def mask(lengths: list[int], left: bool) -> Tensor:
            columns = torch.arange(max(lengths)).expand(len(lengths), -1)
            columns = columns.flip(1) if left else columns
            return columns < torch.tensor(lengths).unsqueeze(1)

        before, after = mask(prompts, left=True), mask(responses, left=False)
        prompt_ids = torch.zeros(before.shape, dtype=torch.long).masked_scatter(before, torch.arange(sum(prompts)))
        total = sum(prompts) + sum(responses)
        ids = torch.arange(sum(prompts), total)
        response_ids = torch.zeros(after.shape, dtype=torch.long).masked_scatter(after, ids)
        batch = from_prompts(prompt_ids, before, response_ids, after, prompt)
        assert batch.ids.tolist() == list(range(total))
        heads = [list(range(sum(prompts[:b]), sum(prompts[: b + 1]))) for b in range(len(prompts))]
        starts = [sum(prompts) + sum(responses[:i]) for i in range(len(responses))]
        tails = [list(range(s, s + n)) for s, n in zip(starts, responses, strict=True)]
        whole = [heads[b] + tail for b, tail in zip(prompt.tolist(), tails, strict=True)]
        agree(batch, heads + whole, prompts + responses, attend, groups)
        expected = [i for n in prompts for i in range(n)]
        expected += [prompts[b] + i for b, n in zip(prompt.tolist(), responses, strict=True) for i in range(n)]
        assert batch.positions.tolist() == expected

    run()


@pytest.mark.parametrize("size", [150, 260])
def test_16_bit_outputs_and_gradients_are_as_near_as_the_kernels_own(size: int) -> None:
    """Large scores: products in 16 bit would be off by whole units in the exponent."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(size, 2, 64, generator=generator) for _ in range(4))
    q = 4 * q
    batch = from_lengths(torch.arange(size), torch.tensor([size]))

    def outcome(dtype: torch.dtype, small: int) -> list[Tensor]:
        parts = [x.to(torch.bfloat16).to(dtype).requires_grad_() for x in (q, k, v)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ragged_attention, "SMALL", small)
            out = by_kernel(*parts, batch)
            return [x.double() for x in (out, *torch.autograd.grad((out * g.to(dtype)).sum(), parts))]

    exact, products, kernel = (
        outcome(torch.float64, 0),
        outcome(torch.bfloat16, 10**9),
        outcome(torch.bfloat16, 0),
    )
    for e, p, s in zip(exact, products, kernel, strict=True):
        assert (p - e).norm() <= 1.5 * (s - e).norm() <= 0.05 * e.norm()


@pytest.mark.parametrize("size", [1.0, 4.0, 16.0])
@torch.no_grad()
def test_outputs_under_autocast_are_as_near_as_the_kernels_own(size: float) -> None:
    """Autocast must not reach the float32 products inside: it would round their scores to 16 bit."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(80, h, 64, generator=generator) for h in (6, 2, 2))
    q, k, v = (x.to(torch.bfloat16) for x in (size * q, k, v))
    layout = from_lengths(torch.arange(80), torch.tensor([50, 30])).layout
    exact = attend(q.double(), k.double(), v.double(), layout, 0.125)
    kernel = attend(q, k, v, replace(layout, products=False), 0.125)
    with torch.autocast("cpu", torch.bfloat16):
        products = attend(q.float(), k.float(), v, layout, 0.125)
    assert products.dtype == torch.bfloat16
    assert (products - exact).norm() <= (kernel - exact).norm()
