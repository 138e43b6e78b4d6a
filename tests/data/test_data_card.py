"""Statistics of a split by hand, near-duplicates against every pair, and what is planted is warned of."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lightning.data.card.card import DataCard
from rlhf_lightning.data.card.cautions import cautions
from rlhf_lightning.data.card.counting import OTHERS, Lengths, Repeats, Tally
from rlhf_lightning.data.card.near_duplicates import NearDuplicates, gram_hashes
from rlhf_lightning.data.card.split import SplitStatistics
from rlhf_lightning.data.card.texts import language_of
from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, Ranking, Row, Text

TOXIC = frozenset({"zounds"})


def summary(rows: list[Any]) -> dict[str, Any]:
    statistics = SplitStatistics(type(rows[0]), TOXIC)
    for row in rows:
        statistics.add(row)
    return statistics.summary()


def ranking(i: int, *, worst: str = "no", best: str = "yes", **about: Any) -> Ranking:
    return Ranking(prompt=f"question {i}", responses=(best, worst), ranks=(1, 2), **about)


def test_a_small_file_by_hand() -> None:
    rows = [
        Ranking(prompt="a cat", responses=("four", "sixsix", "two"), ranks=(1, 2, 2), labeler="ann", category="x"),
        Ranking(prompt="a cat", responses=("zounds", "ok"), ranks=(2, 1), labeler="bob", flags=("toxic", "rude")),
        Ranking(prompt="a cat", responses=("zounds", "ok"), ranks=(2, 1), labeler="bob", flags=("toxic",)),
        Ranking(prompt="a dog", responses=("zounds", "ok"), ranks=(1, 2), source="s"),
    ]
    found = summary(rows)
    assert (found["rows"], found["different_prompts"], found["exact_duplicate_rows"]) == (4, 2, 1)
    assert (found["k"], found["pairs"], found["tied_pairs"]) == ({"2": 3, "3": 1}, 6, 1)
    # four > sixsix: shorter; four > two: longer; ok > zounds twice: shorter; zounds > ok: longer.
    assert found["longer_wins"] == 2 / 5
    assert found["characters"]["prompt"] == {
        "count": 4, "mean": 5.0, "min": 5, "p5": 5, "p50": 5, "p95": 5, "max": 5, "sum": 20,
    }  # fmt: skip
    assert found["flags"] == {"toxic": 2, "rude": 1}
    assert (found["flagged_rows"], found["toxic_worded_rows"], found["toxic_worded_responses"]) == (2, 3, 3)
    assert (found["toxic_negatives"], found["toxic_preferred"]) == (2, 1)
    assert found["labelers"] == {"bob": 2, "ann": 1}
    assert found["rows_without_labeler"] == 1
    assert found["categories"]["x"]["rows"] == 1


def test_every_kind_has_a_card() -> None:
    chat = (Message("user", "zounds"), Message("assistant", "hm"), Message("user", "b"), Message("assistant", "cc"))
    rows: list[Row] = [Demonstration(messages=chat), Prompt(prompt="p"), Text(text="some text")]
    cards = [summary([row]) for row in rows]
    assert [c["kind"] for c in cards] == ["demonstrations", "prompts", "pretraining"]
    assert cards[0]["toxic_worded_prompts"] == 1
    assert cards[0]["characters"]["response"]["max"] == 2
    assert cards[2]["characters"]["text"]["max"] == 9


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60))
def test_lengths_are_numpys_to_three_digits(lengths: list[int]) -> None:
    counted = Lengths()
    for length in lengths:
        counted.add(length)
    found = counted.summary()
    assert found is not None
    for name, q in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95)):
        exact = np.quantile(lengths, q, method="inverted_cdf")
        assert found[name] <= exact < found[name] + max(1, 0.01 * exact + 1)
    assert (found["max"], found["sum"], found["count"]) == (max(lengths), sum(lengths), len(lengths))


def test_counting_is_bounded() -> None:
    tally = Tally()
    for i in range(10_500):
        tally.add(str(i))
    tally.add("0")
    found = tally.summary()
    assert len(found) == 201
    assert found["0"] == 2
    assert sum(found.values()) == 10_501
    assert found[OTHERS] == 10_501 - 201


def test_repeats_tell_where_a_text_ends() -> None:
    repeats = Repeats()
    for texts in (("ab", "c"), ("a", "bc"), ("ab", "c"), ("ab", "c")):
        repeats.add(*texts)
    assert repeats.repeated() == 2


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I bake a cake for my friend?", "English"),
        ("Wie backe ich einen Kuchen für meine Freundin und mich?", "German"),
        ("Comment faire un gâteau pour les enfants?", "French"),
        ("¿Cómo se hace una tarta para los niños?", "Spanish"),
        ("как испечь торт", "Cyrillic script"),
        ("如何烤蛋糕", "Chinese"),
        ("12 + 7 =", "undetermined"),
        ("Who was 孔子, and why is he in the books of the time?", "English"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language


def jaccard(a: str, b: str) -> float:
    """The definition, from sets of strings."""
    grams = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (a, b)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_near_duplicates_are_those_of_the_definition() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(200)]
    texts: list[str] = []
    for i in range(300):
        fresh = rng.choices(words, k=rng.randint(4, 40))
        base = rng.choice(texts).split() if texts and i % 2 else fresh
        base[rng.randrange(len(base))] = rng.choice(words)
        texts.append(" ".join(base))
    near = NearDuplicates(0.8)
    for text in texts:
        near.add(text)
    found = {pair.text: pair for pair in near.found()}
    above = {j for i, j in combinations(range(300), 2) if jaccard(texts[i], texts[j]) >= 0.8}
    assert len(above) > 50
    assert set(found) == above
    for pair in found.values():
        assert pair.similarity == pytest.approx(jaccard(texts[pair.text], texts[pair.other]))
        assert pair.other < pair.text


def test_long_texts_are_compared_by_a_sample() -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(5000)]
    a = rng.choices(words, k=1000)
    b = [*a, *rng.choices(words, k=200)]  # longer, so that their smallest hashes are not of equally many
    near = NearDuplicates(0.5)
    near.add(" ".join(a))
    near.add(" ".join(b))
    (pair,) = near.found()
    assert pair.similarity == pytest.approx(jaccard(" ".join(a), " ".join(b)), abs=0.06)


def test_case_and_punctuation_do_not_count() -> None:
    assert (gram_hashes("A cat, again!") == gram_hashes("a CAT again")).all()
    assert len(gram_hashes("")) == 1


def planted(**changes: Callable[[int], dict[str, Any]]) -> list[Ranking]:
    """600 rankings of four labelers and three categories, every tenth with a toxic word in the worse response."""
    rows = []
    for i in range(600):
        about: dict[str, Any] = {
            "labeler": "abcd"[i % 4],
            "category": f"c{i % 3}",
            "worst": "zounds you" if i % 10 == 0 else f"no {i}",
            "flags": ("toxic",) if i % 10 == 0 else (),
        }
        for change in changes.values():
            about |= change(i)
        rows.append(ranking(i, **about))
    return rows


def test_good_data_is_not_warned_of() -> None:
    assert cautions("train", summary(planted(best=lambda i: {"best": f"yes, {i}" if i % 2 else "ja"}))) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: {"labeler": "a" if i % 25 else "b"}, "labeler 'a' made 96 % of its 600 labelled rows"),
        (lambda i: {"worst": f"no {i}"} if i % 3 == 1 else {}, "no ranking in category 'c1' (200 rows; in the others"),
        (lambda i: {"flags": ()} if i % 3 == 1 else {}, "no row is flagged in category 'c1' (200 rows"),
        (lambda i: {"best": "a long answer with many words"}, "the longer response wins 100 % of 600 pairs"),
        (lambda i: {"best": "zounds", "worst": f"no {i}"} if i % 7 == 0 else {}, "stand above one without in 86"),
    ],
)
def test_what_is_planted_is_named(change: Callable[[int], dict[str, Any]], message: str) -> None:
    balanced = lambda i: {"best": f"yes, {i}" if i % 2 else "ja"}  # noqa: E731
    found = cautions("train", summary(planted(balanced=balanced, change=change)))
    assert any(message in line and line.startswith("train: ") for line in found), found


def test_what_one_category_is_about_is_no_gap_in_the_others() -> None:
    rows = planted(
        change=lambda i: {
            "flags": ("toxic",) if i % 3 == 0 else (),
            "worst": f"no {i}",
            "best": f"yes, {i}" if i % 2 else "ja",
        }
    )
    assert cautions("train", summary(rows)) == []


def test_a_split_that_leaks() -> None:
    card = DataCard("data.init_args.", TOXIC)
    for name, prompts in (("train", "abcc"), ("val", "cdea")):
        for prompt in prompts:
            card.split(name, Prompt).add(Prompt(prompt=prompt))
        warnings = card.close(name, {"files": [name]})
    assert warnings == ["data.init_args.val: 2 of its prompts are training prompts too; val/ metrics will flatter."]
    assert card.as_dict()["shared_prompts"] == {"train and val": 2}
    assert card._open == {}
