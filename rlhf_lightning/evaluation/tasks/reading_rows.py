"""Rows of questions about a text: SQuAD (v1 and v2) and DROP, in one file as published or a row at a time.

| fields | data set |
|---|---|
| `context`, `question`, `answers` (a list of texts; empty: it has no answer) | this project's own |
| `context`, `question`, `answers` {`text`: [...]} | SQuAD, a row at a time |
| `data` [`paragraphs` [`context`, `qas` [`question`, `answers` [`text`], `is_impossible`]]] | SQuAD's own file |
| `passage`, `question`, `answers` (a list; an entry is one person's answer: a text or a list of spans) | own |
| `passage`, `question`, `answer` {`number`, `date`, `spans`}, `validated_answers` | DROP, a row at a time |
| {id: {`passage`, `qa_pairs` [`question`, `answer`, `validated_answers`]}} | DROP's own file |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlhf_lightning.data.json_rows import json_type
from rlhf_lightning.data.records import Record
from rlhf_lightning.evaluation.tasks.rows import TaskRow, about, inside, list_of_objects, object_of, text_of, texts_of


@dataclass(frozen=True, kw_only=True)
class ReadingRow(TaskRow):
    """A question about a text."""

    passage: str
    question: str
    answers: tuple[tuple[str, ...], ...]
    """The spans of each person who answered; none where the text has no answer."""
    title: str = ""


def parse_squad(record: Record) -> Iterable[ReadingRow]:
    """Questions of a record.

    Raises:
        UserError: It is neither of the forms, or broken.
    """
    if not record.has("data"):
        yield _squad_row(record)
        return
    for i, article in enumerate(list_of_objects(record, "data")):
        for j, paragraph in enumerate(list_of_objects(inside(record, article, f"data[{i}]"), "paragraphs")):
            path = f"data[{i}].paragraphs[{j}]"
            for k, question in enumerate(list_of_objects(inside(record, paragraph, path), "qas")):
                shared = {"context": paragraph.get("context"), "title": article.get("title")}
                yield _squad_row(inside(record, {**shared, **question}, f"{path}.qas[{k}]"))


def _squad_row(record: Record) -> ReadingRow:
    given = record.fields.get("answers")
    if given is None:
        given = [] if record.fields.get("is_impossible") is True else record.require("answers")
    if isinstance(given, dict):
        given = given.get("text")
    if isinstance(given, list) and any(isinstance(a, dict) for a in given):
        given = [inside(record, a, f"answers[{i}]").require("text") for i, a in enumerate(given) if isinstance(a, dict)]
    texts = texts_of(record, "answers", given if given is not None else {}, at_least=0)
    if texts and record.fields.get("is_impossible") is True:
        raise record.error("`is_impossible` is true, but there are `answers`; correct one of them.")
    if not texts and record.fields.get("is_impossible") is False:
        raise record.error("`is_impossible` is false, but `answers` is empty; correct one of them.")
    title = record.fields.get("title")
    return ReadingRow(
        passage=text_of(record, "context"),
        question=text_of(record, "question"),
        answers=tuple((t,) for t in texts),
        title=title.replace("_", " ") if isinstance(title, str) else "",
        **about(record),
    )


def parse_drop(record: Record) -> Iterable[ReadingRow]:
    """Questions of a record.

    Raises:
        UserError: It is neither of the forms, or broken.
    """
    if record.has("passage"):
        yield _drop_row(record)
        return
    sections = {k: v for k, v in record.fields.items() if isinstance(v, dict) and "qa_pairs" in v}
    if not sections:
        raise record.error("has neither `passage` nor sections with `qa_pairs`; it is not in DROP's format.")
    for name, section in sections.items():
        for i, pair in enumerate(list_of_objects(inside(record, section, name), "qa_pairs")):
            fields = {"passage": section.get("passage"), "id": pair.get("query_id"), **pair}
            yield _drop_row(inside(record, fields, f"{name}.qa_pairs[{i}]"))


def _drop_row(record: Record) -> ReadingRow:
    if record.has("answers_spans"):
        raise record.error(
            "`answers_spans` does not say which spans are one person's; give the original `answer` and "
            "`validated_answers`, or `answers` as a list with each person's spans."
        )
    if record.has("answers"):
        answers = _given_answers(record)
    else:
        answers = [_spans(record, object_of(record, "answer"), "answer")]
        if record.has("validated_answers"):
            more = list_of_objects(record, "validated_answers")
            answers += [_spans(record, a, f"validated_answers[{i}]") for i, a in enumerate(more)]
    answers = [a for a in answers if a]
    if not answers:
        raise record.error("there is no answer: `number`, `date` and `spans` are all empty. Delete the row.")
    text, question = text_of(record, "passage"), text_of(record, "question")
    return ReadingRow(passage=text, question=question, answers=tuple(answers), **about(record))


def _given_answers(record: Record) -> list[tuple[str, ...]]:
    value = record.fields["answers"]
    if not isinstance(value, list) or not value:
        raise record.error(f"`answers` is {json_type(value)}; it must be a list with each person's answer.")
    return [
        texts_of(record, f"answers[{i}]", [str(a)] if isinstance(a, str | int | float) else a)
        for i, a in enumerate(value)
    ]


def _spans(record: Record, answer: Mapping[str, object], name: str) -> tuple[str, ...]:
    """A number, the spans, or a date as one span."""
    number, spans, date = answer.get("number"), answer.get("spans"), answer.get("date")
    if number not in (None, ""):
        return (str(number),)
    if spans:
        return texts_of(record, f"{name}.spans", spans)
    if isinstance(date, dict):
        words = [str(date[part]) for part in ("day", "month", "year") if date.get(part)]
        return (" ".join(words),) if words else ()
    return ()
