"""Which token is predicted from which, in every way of putting pairs together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.evaluation.token_pairs import TokenPair, scoring_batches, split_tokens, windows

ids = st.lists(st.integers(1, 50), min_size=1, max_size=6).map(tuple)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=8), st.integers(1, 40), st.booleans())
def test_every_token_is_predicted_from_the_one_before_it(
    given: list[tuple[tuple[int, ...], tuple[int, ...]]], max_tokens: int, share: bool
) -> None:
    pairs = [TokenPair(given[0][0] if share and i % 2 else context, after) for i, (context, after) in enumerate(given)]
    seen: dict[int, list[tuple[int, int, int]]] = {}
    for batch in scoring_batches(pairs, max_tokens, torch.device("cpu")):
        contexts = {pairs[n].context for n in batch.numbers}
        size = sum(len(c) for c in contexts) + sum(len(pairs[n].continuation) for n in batch.numbers)
        assert size <= max_tokens or len(contexts) == 1
        before, after, position = batch.tokens.ids[batch.before], batch.targets, batch.tokens.positions[batch.before]
        rows = zip(batch.rows.tolist(), before.tolist(), after.tolist(), position.tolist(), strict=True)
        for row, one, two, place in rows:
            seen.setdefault(batch.numbers[row], []).append((one, two, place))
    assert sorted(seen) == list(range(len(pairs)))
    for number, pair in enumerate(pairs):
        whole = [*pair.context, *pair.continuation]
        first = len(pair.context) - 1
        assert seen[number] == [(whole[i], whole[i + 1], i) for i in range(first, len(whole) - 1)]


def test_shared_contexts_are_read_once() -> None:
    pairs = [TokenPair((1, 2, 3, 4), (n,)) for n in (5, 6, 7)]
    (batch,) = scoring_batches(pairs, 100, torch.device("cpu"))
    assert len(batch.tokens) == 4 + 3
    pairs = [TokenPair((1, 2, 3, n), (5, 6)) for n in (4, 5)]
    (batch,) = scoring_batches(pairs, 100, torch.device("cpu"))
    assert len(batch.tokens) == 2 * (4 + 1)  # nothing depends on a last token


@pytest.mark.parametrize(
    ("context", "whole", "split"),
    [
        ([5, 6], [5, 6, 7], ([5, 6], [7])),
        ([5, 6], [5, 9, 7], ([5], [9, 7])),
        ([5, 6], [5, 6], ([5], [6])),  # the continuation went into the last token
    ],
)
def test_where_a_continuation_begins(context: list[int], whole: list[int], split: tuple[list[int], list[int]]) -> None:
    pair = split_tokens(context, whole)
    assert ([*pair.context], [*pair.continuation]) == split


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 8))
def test_windows_cover_a_document(document: list[int], length: int) -> None:
    found = list(windows(document, 0, length))
    assert [t for w in found for t in w.continuation] == document
    assert all(len(w.context) == 1 and len(w.continuation) <= length for w in found)
    before = [0, *document]
    assert [w.context[0] for w in found] == before[: len(document) : length]


@pytest.mark.parametrize(
    ("limit", "context", "continuation", "cut"),
    [
        (None, (1, 2, 3), (4, 5), False),
        (4, (1, 2, 3), (4, 5), False),  # the 5 is never read
        (3, (2, 3), (4, 5), True),
        (2, (3,), (4, 5), True),
        (1, (3,), (4,), True),
    ],
)
def test_what_fits(limit: int | None, context: tuple[int, ...], continuation: tuple[int, ...], cut: bool) -> None:
    assert TokenPair((1, 2, 3), (4, 5)).fitted(limit) == TokenPair(context, continuation, cut)
