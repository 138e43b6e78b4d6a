"""Pair accuracy by slice, and its errors: by hand, against resampling, and where prompts are shared."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lightning.pair_accuracy import PairCounts, accuracy, by_slice, combination, count_pairs


def random_counts(seed: int, prompts: int = 300) -> PairCounts:
    """Rankings of prompts that differ in how hard they are, two of each prompt, 1 to 6 pairs a ranking."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(1, 7, size=2 * prompts)
    hard = np.repeat(rng.choice([0.4, 0.9], size=prompts), 2)
    return PairCounts(rng.binomial(pairs, hard), pairs, np.repeat(np.arange(prompts), 2))


def test_by_hand() -> None:
    counts = count_pairs([[3, 1, 2], [0, 0], [1, 2, 3]], [[1, 2, 3], [1, 2], [2, 1, 1]], ["p", "q", "p"])
    assert counts.right.tolist() == [2, 0, 2]
    assert counts.pairs.tolist() == [3, 1, 2]
    assert counts.prompt.tolist() == [0, 1, 0]
    found = accuracy(counts)
    assert (found.pairs, found.prompts) == (6, 2)
    assert found.value == pytest.approx(4 / 6)
    # Residuals of the two prompts: 4 - 5 · 2/3 and 0 - 2/3.
    assert found.error == pytest.approx(np.sqrt(2 * ((2 / 3) ** 2 + (2 / 3) ** 2)) / 6)
    assert accuracy(counts[counts.prompt == 0]).error is None
    with pytest.raises(ValueError, match="no pairs"):
        accuracy(counts[[]])
    with pytest.raises(ValueError, match="3 scores for 2 ranks"):
        count_pairs([[1, 2, 3]], [[1, 2]], ["p"])


@pytest.mark.parametrize("seed", range(3))
def test_errors_are_those_of_resampled_prompts(seed: int) -> None:
    """Accuracy, and the gap between two halves of the rankings with the same prompts."""
    counts, rng = random_counts(seed), np.random.default_rng(seed)
    first = np.arange(len(counts.pairs)) % 2 == 0
    drawn = []
    for _ in range(1000):
        chosen = rng.integers(300, size=300)
        one, other = counts[2 * chosen], counts[2 * chosen + 1]
        shares = [c.right.sum() / c.pairs.sum() for c in (one, other)]
        together = (one.right.sum() + other.right.sum()) / (one.pairs.sum() + other.pairs.sum())
        drawn.append((together, shares[0] - shares[1]))
    whole, gap = np.std(drawn, axis=0)
    assert accuracy(counts).error == pytest.approx(whole, rel=0.12)
    found = combination([(1.0, counts[first]), (-1.0, counts[~first])])
    assert found.error == pytest.approx(gap, rel=0.12)
    assert found.value == accuracy(counts[first]).value - accuracy(counts[~first]).value
    apart = [accuracy(counts[mask]).error or 0.0 for mask in (first, ~first)]
    assert (found.error or 0.0) < 0.9 * np.hypot(*apart)  # shared prompts make the gap surer


def test_one_pair_a_prompt_is_the_binomial_error() -> None:
    right = np.array([1] * 30 + [0] * 10)
    found = accuracy(PairCounts(right, np.ones_like(right), np.arange(40)))
    assert found.error == pytest.approx(np.sqrt(0.75 * 0.25 / 39))


def test_a_prompt_that_is_there_twice_says_nothing_new() -> None:
    counts = random_counts(1)
    doubled = PairCounts(*(np.concatenate([part, part]) for part in (counts.right, counts.pairs, counts.prompt)))
    assert accuracy(doubled).error == pytest.approx(accuracy(counts).error)


def test_slices_cover_everything_and_name_what_has_no_label() -> None:
    counts = count_pairs([[1, 0], [0, 1], [1, 0]], [[1, 2]] * 3, ["p", "q", "r"])
    found = by_slice(counts, ["b", None, "a"], missing="(no labeler)")
    assert list(found) == ["a", "b", "(no labeler)"]
    assert [e.value for e in found.values()] == [1.0, 1.0, 0.0]
    assert sum(e.pairs for e in found.values()) == 3
    assert list(by_slice(counts, ["a", "a", "a"])) == ["a"]


def test_an_empty_name_is_a_name() -> None:
    counts = count_pairs([[1, 0], [0, 1]], [[1, 2]] * 2, ["p", "q"])
    assert list(by_slice(counts, ["", None])) == ["", "(none)"]


def test_estimates_as_text() -> None:
    assert str(accuracy(count_pairs([[1, 0, 2]], [[1, 2, 3]], ["p"]))) == "0.333"
