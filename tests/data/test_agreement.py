"""Agreement between labelers: examples by hand, two libraries' values, and what must not matter."""

from __future__ import annotations

import random
from itertools import combinations

import krippendorff
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_cohen_kappa

from rlhf_lightning.data.agreement import Judgements, judgements_of, labeler_agreement, pairwise_agreement
from rlhf_lightning.data.kinds import Ranking

Row = tuple[str, list[str], list[int], str | None]


def judgements(rows: list[Row]) -> Judgements:
    found = Judgements()
    for row in rows:
        found.add(*row)
    return found


def random_rows(seed: int, prompts: int = 12) -> list[Row]:
    """Three labelers with something in common and something of their own; not everybody ranks everything."""
    rng, rows = random.Random(seed), []
    for p in range(prompts):
        responses = [f"{p} {i}" for i in range(rng.randint(2, 4))]
        good = [rng.random() for _ in responses]
        for name in ("ada", "ben", "cy"):
            if rng.random() < 0.8:
                felt = [round(2 * (g + rng.gauss(0, 0.3))) for g in good]
                rows.append((f"prompt {p}", responses, [1 + sum(f > own for f in felt) for own in felt], name))
    return rows


def table(rows: list[Row]) -> tuple[list[str], np.ndarray]:
    """Names, and [labeler, item] of judgements in both orders of every item; NaN where there is none."""
    names = sorted({str(name) for *_, name in rows})
    items: dict[tuple[str, str, str], dict[str, int]] = {}
    for prompt, responses, ranks, name in rows:
        for (a, x), (b, y) in combinations(zip(responses, ranks, strict=True), 2):
            items.setdefault((prompt, a, b), {})[str(name)] = int(np.sign(y - x))
            items.setdefault((prompt, b, a), {})[str(name)] = int(np.sign(x - y))
    return names, np.array([[judged.get(n, np.nan) for judged in items.values()] for n in names])


def test_by_hand() -> None:
    rows: list[Row] = [
        ("p", ["x", "y", "z"], [1, 2, 3], "ada"),  # x > y, x > z, y > z
        ("p", ["x", "y", "z"], [2, 1, 2], "ben"),  # y > x, x = z, y > z
        ("q", ["x", "y"], [1, 2], "ada"),
        ("q", ["x", "y"], [1, 2], "ben"),
        ("q", ["x", "w"], [1, 2], "cy"),  # nobody else saw w
        ("q", ["x", "y"], [1, 2], None),
    ]
    found = labeler_agreement(judgements(rows), resamples=0)
    assert found is not None
    assert found.pairs.keys() == {("ada", "ben")}
    one = found.pairs["ada", "ben"]
    assert (one.prompts, one.items, one.decided) == (2, 4, 3)
    assert one.without_ties.value == pytest.approx(2 / 3)
    assert one.with_ties.value == pytest.approx(2 / 4)
    assert one.kappa is not None
    assert one.kappa.value == pytest.approx((0.5 - 0.375) / (1 - 0.375))  # chance: (1 - 0)(1 - 1/4) / 2
    assert one.with_ties.error is None
    assert found.overall.kappa is None
    assert (found.without_labeler, found.repeated) == (1, 0)


@pytest.mark.parametrize("seed", range(4))
def test_kappa_and_alpha_are_those_of_libraries(seed: int) -> None:
    rows = random_rows(seed)
    names, values = table(rows)
    found = labeler_agreement(judgements(rows), resamples=0)
    assert found is not None
    expected = krippendorff.alpha(reliability_data=values, level_of_measurement="nominal")
    assert found.alpha.value == pytest.approx(expected, abs=1e-9)
    for a, b in combinations(names, 2):
        one, other = values[names.index(a)], values[names.index(b)]
        both = ~np.isnan(one + other)
        x, y = (torch.tensor(v[both] + 1).long() for v in (one, other))
        kappa = found.pairs[a, b].kappa
        assert kappa is not None
        assert kappa.value == pytest.approx(float(multiclass_cohen_kappa(x, y, num_classes=3)), abs=1e-6)


def test_order_of_responses_and_rankings_means_nothing() -> None:
    rows, rng = random_rows(5), random.Random(0)
    shuffled = []
    for prompt, responses, ranks, name in rows:
        order = rng.sample(range(len(ranks)), len(ranks))
        shuffled.append((prompt, [responses[i] for i in order], [ranks[i] for i in order], name))
    rng.shuffle(shuffled)
    one, other = (labeler_agreement(judgements(r), resamples=0) for r in (rows, shuffled))
    assert one == other


def test_errors_are_over_prompts() -> None:
    """A prompt whose three pairs are right or wrong together is one observation."""
    rows: list[Row] = []
    for p in range(400):
        ranks = [1, 2, 3] if p % 4 else [3, 2, 1]
        rows += [(f"{p}", ["x", "y", "z"], [1, 2, 3], "ada"), (f"{p}", ["x", "y", "z"], ranks, "ben")]
    found = labeler_agreement(judgements(rows), resamples=500)
    assert found is not None
    assert found.overall.without_ties.value == 0.75
    assert found.overall.without_ties.error == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.1)
    assert found.pairs["ada", "ben"].kappa is not None
    assert found == labeler_agreement(judgements(rows), resamples=500)


def test_a_labeler_who_ranks_again_counts_once_and_equal_texts_are_not_compared() -> None:
    rows: list[Row] = [("p", ["x", "x", "y"], [1, 2, 3], "ada"), ("p", ["x", "y", "x"], [1, 2, 3], "ben")]
    found = labeler_agreement(judgements([*rows, ("p", ["y", "x"], [1, 2], "ben")]), resamples=0)
    assert found is not None
    assert found.overall.items == 2
    assert found.overall.without_ties.value == 0.5
    assert found.repeated == 1


def test_nothing_in_common() -> None:
    assert labeler_agreement(judgements([("p", ["x", "y"], [1, 2], "ada"), ("q", ["x", "y"], [1, 2], "ben")])) is None
    always = judgements([("p", ["x", "y"], [1, 1], name) for name in ("ada", "ben")])
    found = labeler_agreement(always)
    assert found is not None
    assert found.alpha.value is None  # only ties: no chance of anything else
    assert found.overall.without_ties.value is None


def test_pairwise_agreement_counts_pairs_that_both_decided() -> None:
    assert pairwise_agreement([1, 2, 3], [1, 2, 3]) == 1.0
    assert pairwise_agreement([1, 2, 3], [3, 2, 1]) == 0.0
    assert pairwise_agreement([1, 2, 3], [1, 3, 2]) == pytest.approx(2 / 3)
    assert pairwise_agreement([1, 1, 2], [1, 2, 3]) == 1.0
    assert pairwise_agreement([1, 1, 2], [2, 1, 1]) == 0.0
    assert pairwise_agreement([1, 2, 3], [1, 1, 2]) == 1.0
    assert pairwise_agreement([1, 1, 2], [1, 1, 2]) == 1.0
    assert pairwise_agreement([1, 1], [1, 2]) is None
    with pytest.raises(ValueError, match=r"argument 2|shorter|longer"):
        pairwise_agreement([1, 2], [1, 2, 3])


def test_rows_are_judged_by_their_labelers() -> None:
    rows = [Ranking(prompt="p", responses=("x", "y"), ranks=(1, 2), labeler=name, id="i") for name in ("ada", "ben")]
    found = labeler_agreement(judgements_of(rows), resamples=0)
    assert found is not None
    assert list(found.pairs) == [("ada", "ben")]
