"""The pairs that the peer gets must be all pairs of the rankings that this project gets."""

from __future__ import annotations

from itertools import combinations

import pytest

from benchmarks.peer.flops import Sizes
from benchmarks.peer.rankings import expand_pairs, ordered_responses, strict_rankings
from benchmarks.peer.reward import micro_batch, needed_flops

ROWS = [
    {"prompt": "p0", "responses": ["b", "a", "c", "d"], "ranks": [2, 1, 3, 3]},
    {"prompt": "p1", "responses": ["f", "e"], "scores": [0.5, 2.0]},
    {"prompt": "p2", "chosen": "g", "rejected": "h"},
]


@pytest.mark.parametrize("k", [2, 4, 9])
def test_every_pair_once_and_the_better_first(k: int) -> None:
    pairs = expand_pairs(k)
    assert len(pairs) == len(set(pairs)) == k * (k - 1) // 2
    assert set(pairs) == set(combinations(range(k), 2))


def test_order_comes_from_ranks_scores_or_choice() -> None:
    assert [ordered_responses(row) for row in ROWS] == [["a", "b", "c", "d"], ["e", "f"], ["g", "h"]]


def test_a_ranking_with_enough_responses_keeps_its_own() -> None:
    first = strict_rankings(ROWS, 3, 1, seed=0)[0]
    assert (first.prompt, first.responses, first.borrowed) == ("p0", ("a", "c", "d"), 0)


def test_borrowed_responses_are_others_and_come_last() -> None:
    found = strict_rankings(ROWS, 5, 6, seed=0)
    assert [r.prompt for r in found] == ["p0", "p1", "p2"] * 2
    assert [r.borrowed for r in found] == [1, 3, 3] * 2
    for ranking in found:
        own = ordered_responses(next(row for row in ROWS if row["prompt"] == ranking.prompt))
        assert list(ranking.responses[: len(own)]) == own
        assert len(set(ranking.responses)) == 5
    assert found == strict_rankings(ROWS, 5, 6, seed=0)
    with pytest.raises(ValueError, match="8 different"):
        strict_rankings(ROWS, 9, 1, seed=0)


def test_forwards_of_the_peer_are_equal_parts_of_a_step() -> None:
    for pairs in (2, 12, 30, 72):
        size = micro_batch(pairs, 12)
        assert pairs % size == 0
        assert size <= 12


def test_needed_operations_are_the_same_for_both_sides() -> None:
    """A side that repeats prompts and responses is busy with work that is not needed."""
    ours = [{"seconds": s, "tokens": 100} for s in (9.0, 1.0, 2.0)]
    peer = [{"seconds": s, "tokens": 1000} for s in (9.0, 10.0, 10.0)]
    size = Sizes(body=1, vocabulary=0, adapter=0)
    found = needed_flops({"ours": [{"steps": ours}], "trl": [{"steps": peer}]}, [7, 100, 200], size)
    assert found == {"ours": 4 * 100.0, "trl": 4 * 15.0}
