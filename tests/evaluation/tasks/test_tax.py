"""What tasks ask, word for word, and what they make of answers that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.evaluation.tasks.choice_rows import ChoiceRow
from rlhf_lightning.evaluation.tasks.multiple_choice import MultipleChoice
from rlhf_lightning.evaluation.tasks.reading import Drop, Squad
from rlhf_lightning.evaluation.tasks.runner import run_task
from rlhf_lightning.evaluation.tasks.shots import pick
from rlhf_lightning.evaluation.tasks.writing import Summarization, Translation
from tests.evaluation.tasks.scripted import ScriptedModel

Write = Callable[..., str]


def test_the_choice_depends_on_the_normalisation(jsonl: Write, tmp_path: Path) -> None:
    row = {"context": "C", "choices": [" a b c d", " ef", " ghijklmnopqrstuvwxyz z"], "answer": 0}
    # 4, 1 and 2 "tokens"; 7, 2 and 22 bytes: means -1.5, -5, -5; -6/7, -5/2, -10/22
    logprobs = {" a b c d": -6.0, " ef": -5.0, " ghijklmnopqrstuvwxyz z": -10.0}
    model = ScriptedModel(logprob=lambda context, text: logprobs[text])
    picked = {}
    for how in ("tokens", "sum", "bytes"):
        found = run_task(MultipleChoice(data=jsonl([row]), name=how, normalise=how), model, tmp_path)  # type: ignore[arg-type]
        picked[how] = json.loads(Path(found.outcomes).read_text())["picked"]
        assert found.metrics["accuracy"].mean == float(how == "tokens")
        assert found.metrics["accuracy_by_tokens"].mean == 1.0
    assert picked == {"tokens": 0, "sum": 1, "bytes": 2}


def test_squad(jsonl: Write, tmp_path: Path) -> None:
    rows = [
        {"title": "Cats", "context": "Tom is a cat.", "question": "Who is it?", "answers": ["Tom", "Tom the cat"]},
        {"context": "Tom is a cat.", "question": "Where?", "answers": []},
        {"context": "Tom is a cat.", "question": "When?", "answers": []},
        {"context": "Tom is a cat.", "question": "What?", "answers": ["a cat"]},
    ]
    answers = {"Who is it?": "the cat Tom", "Where?": "Not stated.", "When?": "In May", "What?": ""}
    model = ScriptedModel(write=lambda prompt: answers[prompt.split("Question: ")[-1].split("\n")[0]])
    found = run_task(Squad(data=jsonl(rows)), model, tmp_path)
    # "cat tom" with "tom cat" is 1, not an exact match; silence is right where there is no answer, wrong elsewhere
    assert found.metrics["f1"].mean == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert found.metrics["exact_match"].mean == pytest.approx((0 + 1 + 0 + 0) / 4)
    assert found.metrics["f1_answerable"].mean == 0.5
    assert found.metrics["f1_unanswerable"].n == 2
    assert model.asked[0] == {"temperature": 0.0, "stop": ("\n",), "chat": False, "rows": []}
    assert model.prompts[0] == (
        "Answer the questions with words of the background. If the background does not say, answer: not stated\n\n"
        "Title: Cats\nBackground: Tom is a cat.\nQuestion: Who is it?\nAnswer:"
    )


def test_drop(jsonl: Write, tmp_path: Path) -> None:
    rows = [
        {"passage": "P", "question": "How many?", "answers": [3]},
        {"passage": "P", "question": "Who?", "answers": [["Bears", "Lions"]]},
        {"passage": "P", "question": "When?", "answers": [["3 May 1990"], ["May 1990"]]},
    ]
    answers = {"How many?": "3.0", "Who?": "the Lions; Bears", "When?": "in May 1990"}
    model = ScriptedModel(write=lambda prompt: answers[prompt.split("Question: ")[-1].split("\n")[0]])
    found = run_task(Drop(data=jsonl(rows)), model, tmp_path)
    assert found.metrics["exact_match"].mean == pytest.approx(2 / 3)
    assert found.metrics["f1"].mean == pytest.approx((1 + 1 + 0.8) / 3)
    one = run_task(Drop(data=jsonl(rows), name="one", separator=""), model, tmp_path)
    assert one.metrics["exact_match"].mean == pytest.approx(1 / 3)


def test_examples_come_first_and_are_never_the_question(jsonl: Write, tmp_path: Path) -> None:
    rows = [{"passage": "P", "question": f"Q{i}?", "answers": [["x", str(i)]]} for i in range(6)]
    model = ScriptedModel(write=lambda prompt: "x")
    data = jsonl(rows)
    run_task(Drop(data=data, examples=data, shots=3), model, tmp_path / "1")
    for i, prompt in enumerate(model.prompts):
        parts = prompt.split("\n\n")
        assert len(parts) == 5
        assert parts[-1] == f"Background: P\nQuestion: Q{i}?\nAnswer:"
        numbers = [int(part.split("Question: Q")[1][0]) for part in parts[1:4]]
        assert len({*numbers, i}) == 4
        assert parts[1] == f"Background: P\nQuestion: Q{numbers[0]}?\nAnswer: x; {numbers[0]}"
    assert len(set(model.prompts)) == 6
    again, other = ScriptedModel(write=lambda prompt: "x"), ScriptedModel(write=lambda prompt: "x")
    run_task(Drop(data=data, examples=data, shots=3), again, tmp_path / "2")
    run_task(Drop(data=data, examples=data, shots=3), other, tmp_path / "3", seed=2)
    assert again.prompts == model.prompts
    assert other.prompts != model.prompts


def test_examples_are_drawn_evenly() -> None:
    pool = [ChoiceRow(question=str(i), choices=("a", "b"), answer=0) for i in range(5)]
    drawn = [int(r.question) for n in range(400) for r in pick(pool, 2, pool[0], 1, "x", n)]
    counts = [drawn.count(i) for i in range(5)]
    assert counts[0] == 0
    assert all(abs(c - 200) < 50 for c in counts[1:])
    copies = [pool[0]] * 50 + pool[1:3]  # nearly all rows are the question itself
    assert {r.question for r in pick(copies, 2, pool[0], 1, "x", 0)} == {"1", "2"}


def test_summaries_and_translations(jsonl: Write, tmp_path: Path) -> None:
    model = ScriptedModel(write=lambda prompt: "The cat sat on the mat." if "chat" in prompt else "The dog barked.")
    news = [{"document": "Un chat", "summary": "A cat sat on a mat."}, {"document": "x", "summary": "Nothing."}]
    found = run_task(Summarization(data=jsonl(news)), model, tmp_path)
    # "the cat sat on the mat" with "a cat sat on a mat": 4 of 6 words, and nothing of the other
    assert found.metrics["rougeL"].mean == pytest.approx((4 / 6 + 0) / 2)
    assert model.prompts[0] == "Un chat\n\nTL;DR:"
    rows = [
        {"translation": {"fr": "Le chat", "en": "The cat sat on the mat."}},
        {"source": "non", "target": "The dog barked."},
    ]
    found = run_task(Translation(data=jsonl(rows)), model, tmp_path)
    assert found.metrics["bleu"].mean == pytest.approx(100)
    assert model.prompts[2] == "Translate French to English.\n\nFrench: Le chat\nEnglish:"
