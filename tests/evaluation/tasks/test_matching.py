"""Answers against references: hand-worked, against other people's programs, and against a second one written here."""

from __future__ import annotations

import string
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad

from rlhf_lightning.evaluation.tasks import drop_matching
from rlhf_lightning.evaluation.tasks.squad_matching import squad_scores

ANSWERS = [
    ("in Paris", ["Paris"], 0.0, 2 / 3),
    ("The Eiffel Tower!", ["eiffel tower", "a tower"], 1.0, 1.0),
    ("Lyon", ["Paris", "the city of Paris"], 0.0, 0.0),
    ("big big cat", ["the big cat"], 0.0, 4 / 5),
    ("big big cat", ["big big dog"], 0.0, 2 / 3),
    ("", ["Paris"], 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "truths", "exact", "f1"), ANSWERS)
def test_squad_by_hand_and_by_torchmetrics(answer: str, truths: list[str], exact: float, f1: float) -> None:
    assert squad_scores(answer, truths) == pytest.approx((exact, f1))
    target = {"id": "1", "answers": {"text": truths, "answer_start": [0] * len(truths)}}
    theirs = squad([{"id": "1", "prediction_text": answer}], [target])
    assert squad_scores(answer, truths) == pytest.approx(
        (float(theirs["exact_match"]) / 100, float(theirs["f1"]) / 100)
    )


words = st.lists(st.sampled_from(["the", "A", "cat", "Cat,", "sat", "1", "1.0", "x-y", "an."]), max_size=5)


@settings(max_examples=60, deadline=None)
@given(words, st.lists(words, min_size=1, max_size=3))
def test_squad_is_torchmetrics(answer: list[str], truths: list[list[str]]) -> None:
    texts = [" ".join(t) for t in truths]
    nothing = str.maketrans("", "", string.punctuation)
    # A truth of articles alone is no truth here, and one there.
    texts = [t for t in texts if set(t.lower().translate(nothing).split()) - {"a", "an", "the"}] or ["cat"]
    target = {"id": "1", "answers": {"text": texts, "answer_start": [0] * len(texts)}}
    theirs = squad([{"id": "1", "prediction_text": " ".join(answer)}], [target])
    ours = squad_scores(" ".join(answer), texts)
    assert ours == pytest.approx((float(theirs["exact_match"]) / 100, float(theirs["f1"]) / 100), abs=1e-6)


def test_a_question_without_an_answer_is_right_or_wrong_as_a_whole() -> None:
    assert squad_scores("", []) == (1.0, 1.0)
    assert squad_scores("Paris", []) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "f1"),
    [
        (["42"], [["42"]], 1.0, 1.0),
        (["42 yards"], [["42"]], 0.0, 0.67),  # {42.0, yards} and {42.0}: precision 1/2, recall 1
        (["41 yards"], [["42 yards"]], 0.0, 0.0),  # the numbers differ
        (["42.0"], [["42"]], 1.0, 1.0),
        (["1,000"], [["1000"]], 1.0, 1.0),
        (["Lions", "Bears"], [["the Bears", "Lions"]], 1.0, 1.0),
        (["Bears"], [["Bears", "Lions"]], 0.0, 0.5),
        (["Bears and Lions"], [["Bears", "Lions"]], 0.0, 0.25),  # {bears, and, lions} with one of them: 1/2, over 2
        (["3 May 1990"], [["3 May 1990"]], 1.0, 1.0),
        (["May 1990"], [["3 May 1990"], ["May 1990"]], 1.0, 1.0),
        (["touch-down pass"], [["touch down pass"]], 1.0, 1.0),
        (["Bears", "Bears"], [["Bears"]], 0.0, 0.5),
    ],
)
def test_drop_by_hand(answer: list[str], truths: list[list[str]], exact: float, f1: float) -> None:
    assert drop_matching.drop_scores(answer, truths) == (exact, pytest.approx(f1))


def second_drop(answer: list[str], truth: list[str]) -> tuple[float, float]:
    """DROP's measures written from the paper's description: every assignment of spans is tried."""

    def bag(span: str) -> list[str]:
        out = []
        for token in span.replace("-", " ").split(" "):
            token = token.lower()
            try:
                out.append(repr(float(token)))
                continue
            except ValueError:
                token = "".join(c for c in token if c not in string.punctuation)
            try:
                out.append(repr(float(token)))
            except ValueError:
                if token and token not in ("a", "an", "the"):
                    out.append(token)
        return out

    def number(token: str) -> bool:
        return token.replace(".", "", 1).isdigit()

    def pair(ours: list[str], theirs: list[str]) -> float:
        a, b = set(ours), set(theirs)
        if any(number(t) for t in b) and not any(number(t) and t in a for t in b):
            return 0.0
        if not a or not b:
            return float(a == b)
        precision, recall = len(a & b) / len(a), len(a & b) / len(b)
        return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)

    ours, theirs = [bag(s) for s in answer], [bag(s) for s in truth]
    size = max(len(ours), len(theirs))
    best = max(
        sum(pair(ours[i], theirs[j]) for i, j in enumerate(order) if i < len(ours) and j < len(theirs))
        for order in permutations(range(size))
    )
    exact = Counter(map(tuple, ours)) == Counter(map(tuple, theirs))
    return float(exact), round(best / size, 2)


span = st.lists(st.sampled_from(["the", "Bears", "bears", "Lions,", "7", "7.0", "12", "1,000", "end-zone"]), min_size=1)
spans = st.lists(span.map(lambda s: " ".join(s[:4])), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(spans, spans)
def test_drop_is_a_second_implementation(answer: list[str], truth: list[str]) -> None:
    exact, f1 = second_drop(answer, truth)
    # Both round to two digits, and a half such as 0.375 is a little more or less, by the order of its sum.
    assert drop_matching.f1(answer, truth) == pytest.approx(f1, abs=0.01 + 1e-9)
    if len(set(map(drop_matching.normalised, answer))) == len(answer):  # sets and bags agree
        assert drop_matching.exact_match(answer, truth) == exact


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_best_assignment_is_the_best_of_all(rows: int, columns: int, random: object) -> None:
    table = [[random.random() for _ in range(columns)] for _ in range(rows)]  # type: ignore[attr-defined]
    if rows <= columns:
        best = max(sum(table[i][j] for i, j in enumerate(p)) for p in permutations(range(columns), rows))
    else:
        best = max(sum(table[i][j] for j, i in enumerate(p)) for p in permutations(range(rows), columns))
    assert drop_matching.best_assignment(table) == pytest.approx(best)
