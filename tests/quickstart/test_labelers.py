from itertools import combinations
from random import Random

import pytest
from candidate_sets import candidates

from rlhf_lightning.data.agreement import pairwise_agreement
from rlhf_lightning.quickstart.gold import gold_score
from rlhf_lightning.quickstart.labelers import LABELERS, Labeler, rank
from rlhf_lightning.quickstart.rows import Row, prompt_rows, ranking_rows

BEES = {"family": "lowercase", "topic": "bees", "params": {}, "seen": True}
GOOD, CARELESS, AWFUL = (
    ("bees make sweet honey.", True),
    ("Bees make sweet honey.", True),
    ("bees bees bees", False),
)


@pytest.fixture(scope="module")
def rankings() -> list[Row]:
    """Rows of every labeler on 400 synthetic candidate sets."""
    prompts, rng = prompt_rows(400, 5, "ranking"), Random("candidates")
    return ranking_rows(prompts, [candidates(p["check"], rng) for p in prompts], LABELERS, 5, all_labelers=True)


def decided(row: Row) -> list[tuple[int, int]]:
    """Pairs (better, worse) of a row."""
    pairs = combinations(range(len(row["ranks"])), 2)
    ordered = [(i, j) if row["ranks"][i] < row["ranks"][j] else (j, i) for i, j in pairs]
    return [(i, j) for i, j in ordered if row["ranks"][i] != row["ranks"][j]]


def won(better: float, worse: float) -> float:
    return 0.5 if better == worse else float(better > worse)


def test_three_or_more_labelers_of_different_groups() -> None:
    assert len(LABELERS) >= 3
    assert len({labeler.name for labeler in LABELERS}) == len(LABELERS)
    assert len({labeler.group for labeler in LABELERS}) >= 3


def test_labelers_agree_about_as_often_as_people_do(rankings: list[Row]) -> None:
    ranks = {(row["prompt"], row["labeler"]): row["ranks"] for row in rankings}
    prompts = sorted({row["prompt"] for row in rankings})
    for a, b in combinations([labeler.name for labeler in LABELERS], 2):
        both = [(ranks[p, a], ranks[p, b]) for p in prompts if (p, a) in ranks and (p, b) in ranks]
        rates = [rate for x, y in both if (rate := pairwise_agreement(x, y)) is not None]
        assert 0.72 < sum(rates) / len(rates) < 0.86, (a, b)


def test_gold_predicts_every_labeler_and_length_predicts_none(rankings: list[Row]) -> None:
    for labeler in LABELERS:
        rows = [row for row in rankings if row["labeler"] == labeler.name]
        longer, gold = [], []
        for row in rows:
            scores = [gold_score(row["check"], t, e) for t, e in zip(row["responses"], row["ended"], strict=True)]
            for better, worse in decided(row):
                longer.append(won(len(row["responses"][better]), len(row["responses"][worse])))
                gold.append(won(scores[better], scores[worse]))
        assert 0.40 < sum(longer) / len(longer) < 0.58, labeler
        assert 0.75 < sum(gold) / len(gold) < 0.95, labeler


def test_some_pairs_are_tied_but_few(rankings: list[Row]) -> None:
    ties = [a == b for row in rankings for a, b in combinations(row["ranks"], 2)]
    assert 0.005 < sum(ties) / len(ties) < 0.15


@pytest.mark.parametrize("labeler", LABELERS, ids=lambda labeler: labeler.name)
def test_better_responses_are_liked_better(labeler: Labeler) -> None:
    liking = [labeler.liking(BEES, *response) for response in (GOOD, CARELESS, AWFUL)]
    assert liking[0] > liking[1] > liking[2]


def test_ranks_are_dense_and_best_first() -> None:
    exact = Labeler("exact", "none", noise=0.0, tie=0.001, error=0.0)
    assert rank(exact, BEES, [AWFUL, GOOD, CARELESS, GOOD], Random(0)) == [3, 1, 2, 1]
    generous = Labeler("generous", "none", noise=0.0, tie=2.0, error=0.0)
    assert rank(generous, BEES, [AWFUL, GOOD, CARELESS], Random(0)) == [1, 1, 1]
    for seed in range(50):
        ranks = rank(LABELERS[0], BEES, [AWFUL, GOOD, CARELESS, ("", True), GOOD], Random(seed))
        assert sorted(set(ranks)) == list(range(1, max(ranks) + 1))


def test_mistakes_happen_as_often_as_said() -> None:
    wild = Labeler("wild", "none", noise=0.0, error=1.0)
    wins = sum(rank(wild, BEES, [GOOD, AWFUL], Random(seed))[0] == 1 for seed in range(400))
    assert 150 < wins < 250


def test_a_taste_shows() -> None:
    short, long = (
        ("bees can sting you.", True),
        ("bees carry pollen between flowers and turn nectar into honey.", True),
    )
    brief = Labeler("brief", "none", brevity=1.0, noise=0.0, error=0.0)
    thorough = Labeler("thorough", "none", detail=1.0, noise=0.0, error=0.0)
    assert rank(brief, BEES, [short, long], Random(0)) == [1, 2]
    assert rank(thorough, BEES, [short, long], Random(0)) == [2, 1]
