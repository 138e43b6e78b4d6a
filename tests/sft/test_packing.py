"""Packed rows: same losses as one row per example, and no example sees another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.data.kinds import Message
from rlhf_lightning.models import tiny
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.sft.packing import PackedRows, SFTBatch, SFTExample, collate, pack

EXAMPLES = [
    SFTExample([3, 4, 5, 6], [False, False, True, True]),
    SFTExample([7, 8, 9], [False, True, True]),
    SFTExample([10, 11, 12, 13, 14], [False, True, False, True, True]),
]


@pytest.fixture
def module() -> SFTModule:
    made = SFTModule("embedded:tiny")
    made.configure_model()
    return made


def test_losses_are_those_of_separate_rows(module: SFTModule) -> None:
    """float32 sums in another order: 1e-5 on losses of about 5 nats."""
    with torch.no_grad():
        separate = module.token_losses(collate([[e] for e in EXAMPLES], 0))
        packed = module.token_losses(collate([EXAMPLES], 0))
    assert torch.allclose(packed, separate, atol=1e-5)
    assert len(packed) == 2 + 2 + 3


def test_padding_tokens_change_nothing(module: SFTModule) -> None:
    with torch.no_grad():
        a = module.token_losses(collate([[EXAMPLES[1]], [EXAMPLES[2]]], pad_id=0))
        b = module.token_losses(collate([[EXAMPLES[1]], [EXAMPLES[2]]], pad_id=99))
    assert torch.equal(a, b)


def test_loss_is_cross_entropy_on_response_tokens_only(module: SFTModule) -> None:
    example = EXAMPLES[0]
    with torch.no_grad():
        logits = module.backbone.lm(input_ids=torch.tensor([example.ids])).logits[0].double()
        expected = [-torch.log_softmax(logits[t - 1], -1)[example.ids[t]] for t in (2, 3)]
        losses = module.token_losses(collate([[example]], 0))
    assert torch.allclose(losses.double(), torch.stack(expected), atol=1e-5)


def test_bins_hold_everything_once_and_fit() -> None:
    bins = PackedRows(EXAMPLES, pack(np.array([len(e.ids) for e in EXAMPLES]), 8))
    assert sorted(len(e.ids) for b in bins for e in b) == [3, 4, 5]
    assert all(sum(len(e.ids) for e in b) <= 8 for b in bins)
    assert [[len(e.ids) for e in b] for b in bins] == [[3, 5], [4]]  # rows in the order of their bins
    assert bins[-1] == bins[1:][0] == bins[1]
    with pytest.raises(IndexError):
        bins[2]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40))
def test_no_two_bins_would_fit_into_one(lengths: list[int]) -> None:
    bins = pack(np.array(lengths), 20)
    filled = np.bincount(bins, weights=lengths)
    assert filled.max() <= 20
    assert filled.min() > 0
    assert len(filled) == 1 or np.sort(filled)[:2].sum() > 20


def test_positions_start_again_in_every_example() -> None:
    batch = collate([EXAMPLES[:2], EXAMPLES[2:]], 0)
    assert batch.ragged()[0].positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4]


def test_only_assistant_turns_are_targets() -> None:
    template = PromptTemplate(tiny.tokenizer())
    messages = [Message("user", "a"), Message("assistant", "bc"), Message("user", "d"), Message("assistant", "e")]
    ids, is_response = template.encode_conversation(messages)
    targets = [t for t, flag in zip(ids, is_response, strict=True) if flag]
    assert template.tokenizer.decode(targets) == "bc<|end|>e<|end|>"
    assert (
        template.tokenizer.decode(ids)
        == "<|start|>u:a<|end|><|start|>a:bc<|end|><|start|>u:d<|end|><|start|>a:e<|end|>"
    )


def test_without_a_chat_template_the_prompt_format_is_used() -> None:
    template = PromptTemplate(tiny.tokenizer(chat_template=None), "Q: {prompt}\nA: ")
    assert template.tokenizer.decode(template.encode_prompt("hi")) == "Q: hi\nA: "
    assert template.encode_response("x")[-1] == template.eos_id


def test_a_batch_weighs_its_targets_and_falls_apart_into_rows() -> None:
    batch = collate([[EXAMPLES[0], EXAMPLES[1]], [EXAMPLES[2]]], 0)
    assert batch.weight == 2 + 2 + 3
    rows = [batch.row(i) for i in range(2)]
    assert [row.weight for row in rows] == [4, 3]
    assert rows[1].input_ids[rows[1].segments > 0].tolist() == EXAMPLES[2].ids


@pytest.mark.parametrize(
    ("limit", "expected"), [(100, [[0, 1, 2]]), (8, [[0], [1], [2]]), (1, [[0], [1], [2]]), (9, [[0], [1, 2]])]
)
def test_parts_hold_whole_rows_and_the_weight_of_the_batch(limit: int, expected: list[list[int]]) -> None:
    """Rows of 7, 5 and 4 tokens, of which 4, 3 and 2 are targets."""
    batch = collate([[EXAMPLES[0], EXAMPLES[1]], [EXAMPLES[2]], [EXAMPLES[0]]], 0)
    assert batch.tokens.tolist() == [7, 5, 4]
    for step, weight in ((None, 9), (20.0, 20)):
        batch.step_weight = step
        parts = list(batch.parts(limit))
        assert [part.input_ids[:, 0].tolist() for part in parts] == [[[3, 10, 3][r] for r in rows] for rows in expected]
        assert [part.input_ids.shape[1] for part in parts] == [max([7, 5, 4][r] for r in rows) for rows in expected]
        assert [part.step_weight for part in parts] == [weight] * len(parts)
        assert [part.weight for part in parts] == [sum([4, 3, 2][r] for r in rows) for rows in expected]
        tokens = torch.cat([part.ragged()[0].ids for part in parts])
        assert tokens.tolist() == batch.ragged()[0].ids.tolist()


def test_parts_losses_add_up_to_the_batchs(module: SFTModule) -> None:
    batch = collate([[EXAMPLES[0], EXAMPLES[1]], [EXAMPLES[2]], [EXAMPLES[0]]], 0)
    with torch.no_grad():
        whole, parts = module.loss(batch), [module.loss(part) for part in batch.parts(1)]
    assert len(parts) == 3
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("segments", [[[1, 1, 2, 0], [1, 2, 2, 3]], [[1, 0, 0, 0], [1, 2, 3, 4]], [[1, 1], [1, 1]]])
def test_every_segment_is_a_sequence(segments: list[list[int]]) -> None:
    numbers = torch.tensor(segments)
    batch = SFTBatch(torch.arange(numbers.numel()).view(numbers.shape), numbers > 1, numbers)
    tokens, targets = batch.ragged()
    lengths = [row.count(n) for row in segments for n in sorted(set(row) - {0})]
    assert tokens.positions.tolist() == [i for n in lengths for i in range(n)]
    assert tokens.ids[targets].tolist() == batch.input_ids[numbers > 1].tolist()
