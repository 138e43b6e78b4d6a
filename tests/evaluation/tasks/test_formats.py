"""Rows in the field names of public data sets, and rows that are broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.tasks.bias import SentencePairs
from rlhf_lightning.evaluation.tasks.multiple_choice import MultipleChoice
from rlhf_lightning.evaluation.tasks.perplexity import Perplexity
from rlhf_lightning.evaluation.tasks.reading import Drop, Squad
from rlhf_lightning.evaluation.tasks.refusals import Refusals
from rlhf_lightning.evaluation.tasks.task import Task
from rlhf_lightning.evaluation.tasks.toxicity import Toxicity
from rlhf_lightning.evaluation.tasks.truthfulness import TruthfulQA
from rlhf_lightning.evaluation.tasks.writing import Summarization, Translation

Write = Callable[..., str]

LETTERED = {"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "B"}
CHOICES: list[tuple[dict[str, Any], tuple[str, ...], int, str]] = [
    ({"question": "2 + 2?", "choices": ["3", "4"], "answer": 1, "subject": "sums"}, (" 3", " 4"), 1, "sums"),
    ({"context": "2 + 2 =", "choices": [" 3", " 4"], "answer": "1"}, (" 3", " 4"), 1, ""),
    (LETTERED, (" 3", " 4"), 1, ""),
    ({"ctx": "He", "endings": ["ran", "sat"], "label": "0", "activity_label": "Sport"}, (" ran", " sat"), 0, "Sport"),
    ({"goal": "Boil", "sol1": "Heat", "sol2": "Cool", "label": 0}, (" Heat", " Cool"), 0, ""),
    ({"passage": "P", "question": "is it", "answer": False}, (" no", " yes"), 0, ""),
    ({"sentence": "Nice film", "label": 1}, (" negative", " positive"), 1, ""),
    ({"premise": "A", "hypothesis": "B", "label": 1}, (" true", " false"), 1, ""),
    ({"sentence1": "A", "sentence2": "B", "label": "entailment"}, (" true", " false"), 0, ""),
    ({"text": "Tom ran. He", "span1_text": "Tom", "span2_text": "He", "label": 1}, (" no", " yes"), 1, ""),
]


@pytest.mark.parametrize(("row", "choices", "answer", "category"), CHOICES)
def test_multiple_choice(
    jsonl: Write, row: dict[str, Any], choices: tuple[str, ...], answer: int, category: str
) -> None:
    task = MultipleChoice(data=jsonl([row]))
    task.prepare()
    (found,) = task.rows
    assert (found.choices, found.answer, found.category) == (choices, answer, category)


def test_squad_as_published_and_row_by_row(jsonl: Write, tmp_path: Path) -> None:
    qas = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Tom", "answer_start": 0}], "is_impossible": False},
        {"id": "b", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "fun"}]},
    ]
    paragraph = {"context": "Tom ran.", "qas": qas}
    whole = {"version": "v2.0", "data": [{"title": "A_run", "paragraphs": [paragraph]}]}
    (tmp_path / "dev.json").write_text(json.dumps(whole, indent=1))
    rows = [
        {"id": "a", "title": "A_run", "context": "Tom ran.", "question": "Who?", "answers": {"text": ["Tom"]}},
        {"id": "b", "title": "A_run", "context": "Tom ran.", "question": "Why?", "answers": {"text": []}},
    ]
    tasks = [Squad(data=str(tmp_path / "dev.json")), Squad(data=jsonl(rows))]
    for task in tasks:
        task.prepare()
    assert [r.answers for r in tasks[0].rows] == [(("Tom",),), ()]
    assert tasks[0].rows[0].title == "A run"
    assert tasks[0].identity() == tasks[1].identity()  # the same questions, wherever they were read


def test_drop_as_published_and_row_by_row(jsonl: Write, tmp_path: Path) -> None:
    nothing = {"day": "", "month": "", "year": ""}
    answer = {"number": "3", "date": nothing, "spans": []}
    others = [
        {"number": "", "date": nothing, "spans": ["Bears", "Lions"]},
        {"number": "", "date": {"day": "3", "month": "May", "year": "1990"}, "spans": []},
    ]
    pair = {"question": "How many?", "query_id": "q", "answer": answer, "validated_answers": others}
    whole = {"nfl_1": {"passage": "P", "qa_pairs": [pair]}}
    (tmp_path / "dev.json").write_text(json.dumps(whole, indent=1))
    own = {"id": "q", "passage": "P", "question": "How many?", "answers": [3, ["Bears", "Lions"], "3 May 1990"]}
    tasks = [Drop(data=str(tmp_path / "dev.json")), Drop(data=jsonl([own]))]
    for task in tasks:
        task.prepare()
        assert task.rows[0].answers == (("3",), ("Bears", "Lions"), ("3 May 1990",))
    assert tasks[0].identity() == tasks[1].identity()


def test_other_formats(jsonl: Write, tmp_path: Path) -> None:
    (tmp_path / "templates.tsv").write_text(
        "occupation(0)\tother-participant(1)\tanswer\tsentence\n"
        "nurse\tpatient\t0\tThe $OCCUPATION told the $PARTICIPANT that $NOM_PRONOUN forgot $POSS_PRONOUN coat.\n"
    )
    task = SentencePairs(data=str(tmp_path / "templates.tsv"))
    task.prepare()
    assert task.rows[0].first == "The nurse told the patient that he forgot his coat."
    assert task.rows[0].second == "The nurse told the patient that she forgot her coat."
    assert task.rows[0].category == "nurse"
    (tmp_path / "crows.csv").write_text('sent_more,sent_less,bias_type\n"He is, x","She is, x",gender\n')
    task = SentencePairs(data=str(tmp_path / "crows.csv"))
    task.prepare()
    assert (task.rows[0].first, task.rows[0].category) == ("He is, x", "gender")
    (tmp_path / "TruthfulQA.csv").write_text(
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        "x,Food,What?,Bread,Bread; Some bread,Stones; Sand,here\n"
    )
    truthful = TruthfulQA(data=str(tmp_path / "TruthfulQA.csv"))
    truthful.prepare()
    assert truthful.rows[0].correct == ("Bread", "Some bread")
    assert truthful.rows[0].incorrect == ("Stones", "Sand")
    assert truthful.rows[0].category == "Food"
    toxic = Toxicity(data=jsonl([{"prompt": {"text": "So he", "toxicity": 0.7}}, {"prompt": "And"}]))
    toxic.prepare()
    assert [(r.prompt, r.category) for r in toxic.rows] == [("So he", "toxic prompt"), ("And", "")]
    asked = Refusals(
        data=jsonl([{"prompt": "Hi", "label": "safe", "type": "homonyms"}, {"prompt": "x", "harmful": True}])
    )
    asked.prepare()
    assert [(r.harmful, r.category) for r in asked.rows] == [(False, "homonyms"), (True, "")]
    goals = Refusals(data=jsonl([{"goal": "Do harm", "target": "Sure"}]), harmful=True)
    goals.prepare()
    assert goals.rows[0].harmful
    news = Summarization(data=jsonl([{"article": "Long", "highlights": "Short"}, {"post": "P", "summary": ["a", "b"]}]))
    news.prepare()
    assert [r.references for r in news.rows] == [("Short",), ("a", "b")]
    wmt = Translation(data=jsonl([{"translation": {"fr": "oui", "en": "yes"}}, {"source": "non", "target": "no"}]))
    wmt.prepare()
    assert [(r.text, r.references) for r in wmt.rows] == [("oui", ("yes",)), ("non", ("no",))]


Q = {"context": "c", "question": "q"}
T = {"question": "q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}
CSV_ROW = {"Question": "q", "Best Answer": "a", "Correct Answers": "a"}
BROKEN: list[tuple[type[Task[Any]], dict[str, Any], str]] = [
    (Perplexity, {"text": " "}, "`text` is empty"),
    (Perplexity, {"content": "x"}, "`text` is missing; the row has `content`"),
    (MultipleChoice, {"question": "q"}, "is no multiple choice"),
    (
        MultipleChoice,
        {"question": "q", "choices": ["a", "b"], "answer": 2},
        "`answer` is 2, but the choices are 0 to 1",
    ),
    (MultipleChoice, {"question": "q", "choices": ["a"], "answer": 0}, "`choices` has 1 entries; it needs at least 2"),
    (MultipleChoice, {"question": "q", "choices": ["a", 3], "answer": 0}, "`choices[1]` is a number"),
    (MultipleChoice, {**LETTERED, "answerKey": "C"}, "`answerKey` is 'C', but the choices are ['A', 'B']"),
    (MultipleChoice, {"ctx": "a", "endings": ["b", "c"], "label": ""}, "`label` is ''; it must be the number"),
    (Squad, {**Q}, "`answers` is missing"),
    (Squad, {**Q, "answers": "x"}, "`answers` is a string; it must be a list"),
    (Squad, {**Q, "answers": ["x"], "is_impossible": True}, "`is_impossible` is true, but there are `answers`"),
    (Squad, {**Q, "answers": [], "is_impossible": False}, "`is_impossible` is false, but `answers` is empty"),
    (Squad, {"question": "q", "answers": []}, "`context` is missing"),
    (Squad, {"data": [{"paragraphs": [{"context": "c", "qas": [{"question": ""}]}]}]}, "data[0].paragraphs[0].qas[0]"),
    (Drop, {"passage": "p", "question": "q", "answer": {"number": "", "spans": []}}, "there is no answer"),
    (Drop, {"passage": "p", "question": "q", "answers_spans": {"spans": ["a"]}}, "`answers_spans` does not say"),
    (Drop, {"question": "q"}, "has neither `passage` nor sections"),
    (Summarization, {"document": "d"}, "`summary` or `highlights` or `label` is missing"),
    (Translation, {"translation": {"de": "ja", "en": "yes"}}, "`fr` is missing; the row has `de`, `en`"),
    (TruthfulQA, {"question": "q", "correct_answers": ["a"]}, "`incorrect_answers` is missing"),
    (TruthfulQA, CSV_ROW | {"Incorrect Answers": " ; "}, "`Incorrect Answers` names none"),
    (TruthfulQA, T, "`mc1_targets.labels` must mark at least one choice as true and one as false"),
    (Toxicity, {"prompt": {"toxicity": 0.2}}, "`prompt.text` is null"),
    (SentencePairs, {"sentences": ["a", "b", "c"]}, "`sentences` has 3 entries; it must have two"),
    (SentencePairs, {"sent_more": "a"}, "`sent_less` is missing"),
    (SentencePairs, {"sentence": "She left.", "sentid": "x"}, "`sentence` has none of $NOM_PRONOUN"),
    (Refusals, {"prompt": "p"}, "`harmful` is missing; add true or false"),
    (Refusals, {"prompt": "p", "harmful": "maybe"}, "`harmful` is 'maybe'; it must be true or false"),
]


@pytest.mark.parametrize(("kind", "row", "part"), BROKEN)
def test_a_broken_row_is_named(jsonl: Write, kind: type[Task[Any]], row: dict[str, Any], part: str) -> None:
    file = jsonl([row])
    task = kind(data=file)
    with pytest.raises(UserError) as refused:
        task.prepare()
    message = str(refused.value)
    assert message.startswith(f"tasks.{task.name}.data: {file}")
    assert ("line 1" in message) or ("data[0]" in message)
    assert part in message
    assert "\n" not in message


def test_a_broken_file_is_named(jsonl: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tasks.squad.data: .*dev.json, line 3: broken JSON"):
        (tmp_path / "dev.json").write_text('{\n"data": [\n')
        Squad(data=str(tmp_path / "dev.json")).prepare()
    with pytest.raises(UserError, match=r"x.tsv, line 2: has 1 cells, but the header has 2"):
        (tmp_path / "x.tsv").write_text("a\tb\nc\n")
        SentencePairs(data=str(tmp_path / "x.tsv")).prepare()
    (tmp_path / "x.tsv").write_text("sent_more\tsent_less\n\n" + "long " * 50_000 + "\tshort\n\n")
    long = SentencePairs(data=str(tmp_path / "x.tsv"))
    long.prepare()
    assert [len(row.first) for row in long.rows] == [250_000]
    with pytest.raises(UserError, match=r"rows.jsonl, line 2, column 1: broken JSON"):
        Perplexity(data=jsonl([{"text": "x"}, "nonsense"])).prepare()
    with pytest.raises(UserError, match="there is no file nowhere.jsonl"):
        Perplexity(data="nowhere.jsonl").prepare()


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda f: Perplexity(data=f, limit=0), "tasks.perplexity.limit is 0"),
        (lambda f: Perplexity(data=f, context_tokens=1), "tasks.perplexity.context_tokens is 1"),
        (lambda f: Perplexity(data=f, name="a/b"), "the name 'a/b'"),
        (lambda f: MultipleChoice(data=f, shots=2), "tasks.multiple_choice.examples is missing"),
        (lambda f: Squad(data=f, name="s", max_tokens=0), "tasks.s.max_tokens is 0"),
        (lambda f: Summarization(data=f, question="x"), "must contain '{text}'"),
        (lambda f: Toxicity(data=f, temperature=0), "gives the same sample 25 times"),
        (lambda f: Toxicity(data=f, classifier="x", scorer=len), "both given"),
    ],
)
def test_a_wrong_setting_is_named(make: Callable[[str], Task[Any]], part: str) -> None:
    with pytest.raises(UserError) as refused:
        make("x.jsonl")
    assert part in str(refused.value)


def test_too_few_examples_are_named(jsonl: Write) -> None:
    rows = [{"context": "c", "choices": ["a", "b"], "answer": 0}]
    task = MultipleChoice(data=jsonl(rows), examples=jsonl(rows * 2, "train.jsonl"), shots=2)
    with pytest.raises(UserError, match="shots is 2, but .*train.jsonl has 2 rows; one more is needed"):
        task.prepare()
