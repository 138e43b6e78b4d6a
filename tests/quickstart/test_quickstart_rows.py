import json
from collections import Counter
from random import Random

import pytest
from candidate_sets import candidates

from rlhf_lightning.quickstart.families import FAMILIES, SEEN, UNSEEN
from rlhf_lightning.quickstart.labelers import LABELERS, Labeler
from rlhf_lightning.quickstart.refusal import harmful_requests
from rlhf_lightning.quickstart.rows import (
    SPLITS,
    Row,
    demonstration_rows,
    distinct_responses,
    prompt_rows,
    ranking_rows,
)
from rlhf_lightning.quickstart.topics import bank_topics

SIZES = {
    "demonstrations": 320,
    "demonstrations_val": 40,
    "train": 700,
    "val": 64,
    "ranking": 420,
    "heldout_seen": 160,
    "ranking_heldout": 60,
    "heldout_unseen": 96,
}

FIRST_PROMPT = "Write one sentence about schools with no more than 7 words."


@pytest.fixture(scope="module")
def everything() -> dict[str, list[Row]]:
    assert set(SIZES) == set(SPLITS)
    return {split: prompt_rows(n, 0, split) for split, n in SIZES.items()}


def test_counts_fields_and_ids(everything: dict[str, list[Row]]) -> None:
    for split, rows in everything.items():
        assert len(rows) == SIZES[split]
        assert len({row["id"] for row in rows}) == len(rows)
        families = Counter(row["category"] for row in rows)
        assert max(families.values()) - min(families.values()) <= 1
        for row in rows:
            assert set(row) == {"id", "prompt", "category", "check"}
            assert set(row["check"]) == {"family", "topic", "params", "seen"}
            assert row["category"] == row["check"]["family"]
            assert row["check"]["seen"] is FAMILIES[row["category"]].seen
            assert json.loads(json.dumps(row)) == row


def test_no_prompt_appears_twice(everything: dict[str, list[Row]]) -> None:
    assert max(Counter(row["prompt"] for rows in everything.values() for row in rows).values()) == 1


def test_splits_are_disjoint_whatever_the_seed() -> None:
    prompts = {split: {row["prompt"] for seed in (1, 2) for row in prompt_rows(60, seed, split)} for split in SPLITS}
    for split in SPLITS:
        for other in SPLITS:
            assert split == other or not prompts[split] & prompts[other]


def test_held_out_topics_and_unseen_families_stay_out_of_training(everything: dict[str, list[Row]]) -> None:
    train_topics = {t.name for t in (*bank_topics(False), *harmful_requests(False))}
    for split, rows in everything.items():
        held_out = "heldout" in split
        assert all((row["check"]["topic"] in train_topics) is not held_out for row in rows)
        wanted = UNSEEN if split == "heldout_unseen" else SEEN
        assert {row["category"] for row in rows} == {family.name for family in wanted}


def test_demonstrations_do_what_they_are_asked() -> None:
    rows = demonstration_rows(320, 0)
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in prompt_rows(320, 0, "demonstrations")]
    assert all(row["source"] for row in rows)
    assert all(FAMILIES[r["category"]].satisfied(r["response"], r["check"]["params"]) for r in rows)
    assert len({row["response"] for row in rows}) > 0.75 * len(rows)


def test_rows_depend_on_the_seed_alone() -> None:
    first = json.dumps(prompt_rows(50, 7, "train"))
    prompt_rows(20, 8, "train")
    assert json.dumps(prompt_rows(50, 7, "train")) == first
    assert json.dumps(prompt_rows(50, 8, "train")) != first
    assert demonstration_rows(20, 7) == demonstration_rows(20, 7)
    # Frozen: changing what a seed means makes reported numbers incomparable.
    assert prompt_rows(1, 0, "train")[0]["prompt"] == FIRST_PROMPT


def test_impossible_requests_are_errors() -> None:
    with pytest.raises(ValueError, match="none of"):
        prompt_rows(1, 0, "test")
    with pytest.raises(ValueError, match="too few prompts"):
        prompt_rows(3000, 0, "val")


def sampled(n: int) -> tuple[list[Row], list[list[tuple[str, bool]]]]:
    prompts, rng = prompt_rows(n, 2, "ranking"), Random("rows")
    return prompts, [candidates(p["check"], rng) for p in prompts]


def test_training_rankings_have_one_labeler_each() -> None:
    prompts, samples = sampled(200)
    rows = ranking_rows(prompts, samples, LABELERS, 2, all_labelers=False)
    assert rows == ranking_rows(prompts, samples, LABELERS, 2, all_labelers=False)
    assert rows != ranking_rows(prompts, samples, LABELERS, 3, all_labelers=False)
    assert max(Counter(row["prompt"] for row in rows).values()) == 1
    assert min(Counter(row["labeler"] for row in rows).values()) > 25
    groups = {labeler.name: labeler.group for labeler in LABELERS}
    by_prompt = {p["prompt"]: s for p, s in zip(prompts, samples, strict=True)}
    for row in rows:
        k = len(row["responses"])
        assert 4 <= k <= 9
        assert len(row["ranks"]) == len(row["ended"]) == len(set(row["responses"])) == k
        assert sorted(set(row["ranks"])) == list(range(1, max(row["ranks"]) + 1))
        assert max(row["ranks"]) > 1
        assert row["labeler_group"] == groups[row["labeler"]]
        assert set(zip(row["responses"], row["ended"], strict=True)) <= set(by_prompt[row["prompt"]])


def test_held_out_rankings_have_every_labeler() -> None:
    prompts, samples = sampled(40)
    rows = ranking_rows(prompts, samples, LABELERS, 2, all_labelers=True)
    assert len({row["id"] for row in rows}) == len(rows)
    for prompt in {row["prompt"] for row in rows}:
        mine = [row for row in rows if row["prompt"] == prompt]
        assert len(mine) == len(LABELERS)
        assert all(row["responses"] == mine[0]["responses"] for row in mine)


def test_repeated_blank_and_tied_responses_are_left_out() -> None:
    prompts = prompt_rows(1, 0, "ranking")
    four = [
        ("One is good.", True),
        ("Two are good.", True),
        ("Three are good.", False),
        ("Four are good.", True),
    ]
    messy = [("", True), four[0], (" \n", False), ("One is good. ", False), *four[1:]]
    assert distinct_responses(messy) == four
    (row,) = ranking_rows(prompts, [messy], LABELERS, 0, all_labelers=False)
    assert row["responses"] == [text for text, _ in four]
    assert ranking_rows(prompts, [four[:3]], LABELERS, 0, all_labelers=False) == []
    indifferent = Labeler("indifferent", "none", noise=0.0, tie=9.0, error=0.0)
    assert ranking_rows(prompts, [four], [indifferent], 0, all_labelers=True) == []
    many = [(f"Text number {i}.", True) for i in range(15)]
    assert len(ranking_rows(prompts, [many], LABELERS, 0, all_labelers=False)[0]["responses"]) == 9
