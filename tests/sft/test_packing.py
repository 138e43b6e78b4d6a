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
from rlhf_lightning.sft.packing import PackedRows, SFTExample, collate, pack

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
