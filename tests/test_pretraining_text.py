"""Pretraining text: documents cut into sequences, and the order in which they are taken."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.data.kinds import Text
from rlhf_lightning.errors import UserError
from rlhf_lightning.models import tiny
from rlhf_lightning.pretraining_text import PretrainingText, TokenSequence, cut, encode_document
from rlhf_lightning.prompt_template import PromptTemplate


def text(count: int, seed: int = 0, length: int = 2) -> PretrainingText:
    """Sequences that begin with their number."""
    return PretrainingText([TokenSequence([i] * length) for i in range(count)], seed)


def test_documents_are_cut_where_a_sequence_is_full() -> None:
    """By hand: EOS is 2; a document goes on in the next sequence, and the last token is dropped."""
    documents = [[5, 6, 7, 8, 9, 2], [7, 2], [3, 2], [4]]
    assert [s.ids for s in cut(documents, 5)] == [[5, 6, 7, 8, 9], [2, 7, 2, 3, 2]]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), max_size=9), st.integers(1, 7))
def test_sequences_are_the_documents_in_order(documents: list[list[int]], length: int) -> None:
    made = [s.ids for s in cut(documents, length)]
    tokens = list(chain.from_iterable(documents))
    assert list(chain.from_iterable(made)) == tokens[: len(tokens) // length * length]
    assert all(len(ids) == length for ids in made)


def test_a_document_ends_with_eos_and_has_no_template() -> None:
    template = PromptTemplate(tiny.tokenizer())
    ids = template.encode_document("Hay.")
    assert ids[-1] == template.eos_id
    assert template.tokenizer.decode(ids[:-1]) == "Hay."


def test_a_pass_takes_every_sequence_once_and_passes_differ() -> None:
    stream = text(20)
    passes = [[stream.number(20 * p + i) for i in range(20)] for p in range(3)]
    assert all(sorted(p) == list(range(20)) for p in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    assert passes[0] != list(range(20))


def test_a_sequence_depends_on_seed_and_position_alone() -> None:
    whole = [text(20).number(p) for p in range(60)]
    stream = text(20)
    assert [stream.number(p) for p in (59, 0, 33, 32, 7)] == [whole[p] for p in (59, 0, 33, 32, 7)]
    assert [text(20, seed=1).number(p) for p in range(20)] != whole[:20]


def test_sequences_at_positions() -> None:
    stream = text(5, length=3)
    rows = stream.ids([4, 0, 7])
    assert rows.tolist() == [[stream.number(p)] * 3 for p in (4, 0, 7)]
    assert rows.dtype == torch.long
    assert stream.ids([]).shape == (0, 3)


@pytest.mark.parametrize("ids", [[], [1], [2**31 - 1, 0]])
def test_a_sequence_comes_back_from_disk(ids: list[int]) -> None:
    assert TokenSequence.unpacked(TokenSequence(ids).packed()).ids == ids


def test_text_without_tokens_is_refused() -> None:
    """Some tokenizers drop characters that they do not know."""
    template = PromptTemplate(tiny.tokenizer())
    row = Text(text="A", file="a.jsonl", line=3)
    assert len(encode_document(template, row)) == 2
    template._encode_text = lambda text: []  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"data\.init_args\.pretrain: a\.jsonl:3: .* no tokens"):
        encode_document(template, row)
