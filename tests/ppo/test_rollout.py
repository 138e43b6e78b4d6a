"""A rollout as sequences without padding, and which random numbers a row is sampled with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.ppo.prompts import PromptBatch
from rlhf_lightning.ppo.rollout import Rollout, sample_rollout
from rlhf_lightning.rollouts.engine import Draws
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings

PROMPTS, RESPONSES = [[11, 12, 13], [21], [31, 32]], [[14], [22, 23, 24, 25], [33, 34]]


def padded(rows: list[list[int]], width: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    def whole(row: list[int], filler: int) -> list[int]:
        gap = [filler] * (width - len(row))
        return gap + row if left else row + gap

    ids = torch.tensor([whole(row, 99) for row in rows])
    return ids, torch.tensor([whole([1] * len(row), 0) for row in rows]).bool()


def rollout() -> Rollout:
    """With a column of padding on each side that no row needs."""
    truncated = torch.tensor([False, True, False])
    prompts, responses = padded(PROMPTS, 4, left=True), padded(RESPONSES, 5, left=False)
    return Rollout(*prompts, *responses, truncated, responses[0] / 10)


@pytest.mark.parametrize("rows", [None, [0, 1, 2], [2, 0], [1]])
def test_sequences_are_the_rows_without_padding(rows: list[int] | None) -> None:
    made = rollout() if rows is None else rollout().rows(torch.tensor(rows))
    own = rows or [0, 1, 2]
    sequences = made.sequences
    assert len(made) == len(own)
    assert sequences.tokens.ids.tolist() == [t for r in own for t in PROMPTS[r] + RESPONSES[r]]
    lengths = [len(PROMPTS[r] + RESPONSES[r]) for r in own]
    assert sequences.tokens.positions.tolist() == [i for n in lengths for i in range(n)]
    assert made.tokens.tolist() == lengths
    before = [t for r in own for t in (PROMPTS[r][-1:] + RESPONSES[r])[:-1]]
    assert sequences.tokens.ids[sequences.before].tolist() == before
    assert torch.equal(made.sampler_logprobs, made.response_ids / 10)
    assert sequences.tokens.ids[sequences.ends].tolist() == [RESPONSES[r][-1] for r in own]


def test_a_row_without_a_response_predicts_nothing() -> None:
    whole = rollout()
    silent = replace(whole, response_mask=whole.response_mask & False)
    sequences = silent.sequences
    assert len(sequences.tokens) == 6
    assert len(sequences.before) == 0
    assert silent.rows(torch.tensor([1])).response_ids.shape == (1, 1)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A model that often stops, so that responses have different lengths."""
    lm = load_causal_lm(resolve("embedded:tiny"))
    lm.lm_head.bias = torch.nn.Parameter(3.5 * torch.nn.functional.one_hot(torch.tensor(2), lm.config.vocab_size))
    made = Backbone(lm)
    made.add_adapter("a", LoraSettings(rank=4).peft_config(), trainable=True)
    with torch.no_grad():
        for tensor in made.adapter_state("a").values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return made


def sampled(
    backbone: Backbone, rows: list[int], adapter: str | None = None, decoding: int = 64, iteration: int = 0
) -> list[list[int]]:
    """Responses to prompts 0 to 4, of which some rows are asked for; row 1 of ten tokens."""
    prompts = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15]]
    batch = PromptBatch(*padded([prompts[r] for r in rows], 5, left=True), [""] * len(rows), rows)
    settings, key = SamplingSettings(8, batch_size=decoding), (3, "test", iteration, 0)
    made = sample_rollout(NativeEngine(), backbone, adapter, batch, settings, key, eos_id=2, pad_id=0)
    assert ((made.sampler_logprobs < 0) == made.response_mask).all()
    assert torch.equal(made.prompt_ids, batch.prompt_ids)
    assert made.truncated.tolist() == [2 not in ids[mask].tolist() for ids, mask in zip(*response(made), strict=True)]
    assert (made.response_ids[~made.response_mask] == 0).all()
    return [ids[mask].tolist() for ids, mask in zip(*response(made), strict=True)]


def response(made: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
    return made.response_ids, made.response_mask


def test_samples_go_by_row_numbers(backbone: Backbone) -> None:
    whole = sampled(backbone, [0, 1, 2, 3, 4])
    assert len({tuple(r) for r in whole}) == 5
    assert max(map(len, whole[:2])) < max(map(len, whole))  # a decoding batch of two is narrower
    assert sampled(backbone, [3, 1]) == [whole[3], whole[1]]
    assert sampled(backbone, [0, 1, 2, 3, 4], decoding=2) == whole
    assert sampled(backbone, [0, 1, 2, 3, 4], iteration=1) != whole


def test_the_adapter_samples_and_the_weights_are_put_back(backbone: Backbone) -> None:
    before = {n: p.clone() for n, p in backbone.named_parameters()}
    assert sampled(backbone, [0, 1], "a") != sampled(backbone, [0, 1])
    assert all(torch.equal(p, before[n]) for n, p in backbone.named_parameters())


def test_seeds_go_by_row_numbers() -> None:
    """For engines that draw by themselves."""
    draws, other = Draws((3, "test", 0, 0), [7, 5, 6]), Draws((3, "test", 0, 0), [6, 7, 8])
    assert draws.row_seed(0) == other.row_seed(1) != draws.row_seed(1)
    assert draws.batch_seed([2, 0]) == other.batch_seed([0, 1]) != other.batch_seed([1, 2])
    assert Draws((4, "test", 0, 0), [7]).row_seed(0) != draws.row_seed(0)
