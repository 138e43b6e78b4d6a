"""Rows of multiple choice, in the field names of well-known data sets.

| fields | data set |
|---|---|
| `question`, `choices` (texts), `answer` (number from 0) | this project's own; MMLU |
| `context`, `choices` (texts), `answer` | the same, without "Question:" and "Answer:" around it |
| `ctx`, `endings`, `label` | HellaSwag |
| `question` or `question_stem`, `choices` {`text`, `label`}, `answerKey` | ARC, OpenBookQA, CommonsenseQA |
| `goal`, `sol1`, `sol2`, `label` | PIQA |
| `passage`, `question`, `answer` or `label` (true or false) | BoolQ |
| `sentence`, `label` (0 negative, 1 positive) | SST-2 |
| `premise`, `hypothesis` or `sentence1`, `sentence2`, and `label` (0 entailment, 1 not) | RTE |
| `text`, `span1_text`, `span2_text`, `label` (0 or 1) | WSC |

`category` is kept; HellaSwag's `activity_label` and MMLU's `subject` are categories too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlhf_lightning.data.json_rows import json_type
from rlhf_lightning.data.records import Record
from rlhf_lightning.evaluation.tasks.rows import TaskRow, about, index_of, object_of, text_of, texts_of


@dataclass(frozen=True, kw_only=True)
class ChoiceRow(TaskRow):
    """A question and its choices; a choice stands directly after the question."""

    question: str
    choices: tuple[str, ...]
    answer: int
    """Number of the right choice, from 0."""


def parse_choice(record: Record) -> ChoiceRow:
    """A question with choices from any of the formats.

    Raises:
        UserError: It is none of them, or broken.
    """
    for fields, parse in _FORMATS:
        if all(record.has(name) for name in fields):
            return parse(record)
    known = "; ".join(", ".join(f"`{name}`" for name in fields) for fields, _ in _FORMATS)
    there = ", ".join(f"`{n}`" for n in list(record.fields)[:12]) or "no fields"
    raise record.error(f"is no multiple choice: the row has {there}; known are {known}.")


def _own(record: Record) -> ChoiceRow:
    choices = texts_of(record, "choices", at_least=2)
    category = "category" if record.has("category") else "subject"
    return _question(record, text_of(record, "question"), choices, index_of(record, "answer", len(choices)), category)


def _context(record: Record) -> ChoiceRow:
    choices = texts_of(record, "choices", at_least=2)
    answer = index_of(record, "answer", len(choices))
    return ChoiceRow(question=text_of(record, "context"), choices=choices, answer=answer, **about(record))


def _lettered(record: Record) -> ChoiceRow:
    listed = object_of(record, "choices")
    choices = texts_of(record, "choices.text", listed.get("text"), at_least=2)
    letters = [str(x) for x in texts_of(record, "choices.label", listed.get("label"), at_least=2)]
    key = str(record.require("answerKey"))
    if len(letters) != len(choices) or key not in letters:
        raise record.error(f"`answerKey` is {key!r}, but the choices are {letters}.")
    return _question(record, text_of(record, "question", "question_stem"), choices, letters.index(key))


def _question(
    record: Record, text: str, choices: tuple[str, ...], answer: int, category: str = "category"
) -> ChoiceRow:
    after = tuple(f" {choice}" for choice in choices)
    return ChoiceRow(question=f"Question: {text}\nAnswer:", choices=after, answer=answer, **about(record, category))


def _hellaswag(record: Record) -> ChoiceRow:
    endings = tuple(f" {ending}" for ending in texts_of(record, "endings", at_least=2))
    answer = index_of(record, "label", len(endings))
    return ChoiceRow(question=text_of(record, "ctx"), choices=endings, answer=answer, **about(record, "activity_label"))


def _piqa(record: Record) -> ChoiceRow:
    choices = (text_of(record, "sol1"), text_of(record, "sol2"))
    return _question(record, text_of(record, "goal"), choices, index_of(record, "label", 2))


def _boolq(record: Record) -> ChoiceRow:
    value = record.fields["answer"] if record.has("answer") else record.require("label")
    if value not in (True, False, 0, 1):
        raise record.error(f"`answer` is {json_type(value)}; it must be true or false.")
    text = f"{text_of(record, 'passage')}\nQuestion: {text_of(record, 'question')}\nAnswer:"
    return ChoiceRow(question=text, choices=(" no", " yes"), answer=int(bool(value)), **about(record))


def _sst(record: Record) -> ChoiceRow:
    text = f"Review: {text_of(record, 'sentence')}\nSentiment:"
    answer = index_of(record, "label", 2)
    return ChoiceRow(question=text, choices=(" negative", " positive"), answer=answer, **about(record))


def _rte(record: Record) -> ChoiceRow:
    first, second = text_of(record, "premise", "sentence1"), text_of(record, "hypothesis", "sentence2")
    labels = {"entailment": 0, "not_entailment": 1}
    label = record.fields.get("label")
    answer = labels[label] if isinstance(label, str) and label in labels else index_of(record, "label", 2)
    text = f"{first}\nQuestion: {second} True or false?\nAnswer:"
    return ChoiceRow(question=text, choices=(" true", " false"), answer=answer, **about(record))


def _wsc(record: Record) -> ChoiceRow:
    text, noun, pronoun = (text_of(record, name) for name in ("text", "span1_text", "span2_text"))
    question = f'{text}\nQuestion: In this text, does "{pronoun}" mean "{noun}"?\nAnswer:'
    value = record.require("label")
    answer = int(value) if isinstance(value, bool) else index_of(record, "label", 2)
    return ChoiceRow(question=question, choices=(" no", " yes"), answer=answer, **about(record))


_FORMATS: list[tuple[tuple[str, ...], Callable[[Record], ChoiceRow]]] = [
    (("choices", "answerKey"), _lettered),
    (("question", "choices", "answer"), _own),
    (("context", "choices", "answer"), _context),
    (("ctx", "endings", "label"), _hellaswag),
    (("goal", "sol1", "sol2", "label"), _piqa),
    (("passage", "question"), _boolq),
    (("premise", "hypothesis", "label"), _rte),
    (("sentence1", "sentence2", "label"), _rte),
    (("text", "span1_text", "span2_text", "label"), _wsc),
    (("sentence", "label"), _sst),
]
"""More specific ones first."""
