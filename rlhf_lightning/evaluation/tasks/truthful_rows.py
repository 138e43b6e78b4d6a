"""Rows of TruthfulQA (Lin et al. 2021, arXiv 2109.07958), in each of the forms it is published in.

| fields | |
|---|---|
| `question`, `best_answer`, `correct_answers`, `incorrect_answers`, `category` | this project's own; "generation" |
| `question`, `mc1_targets` {`choices`, `labels`}, `mc2_targets` | "multiple_choice" |
| `Question`, `Best Answer`, `Correct Answers`, `Incorrect Answers` (with ; between), `Category` | TruthfulQA.csv |
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_lightning.data.records import Record
from rlhf_lightning.evaluation.tasks.rows import TaskRow, about, object_of, text_of, texts_of


@dataclass(frozen=True, kw_only=True)
class TruthfulRow(TaskRow):
    """A question with true and false answers."""

    question: str
    best: str
    correct: tuple[str, ...]
    """The best one is among them, except where MC1 and MC2 have sets of their own."""
    incorrect: tuple[str, ...]
    incorrect_beside_best: tuple[str, ...]
    """What MC1 puts beside the best one."""


def parse_truthful(record: Record) -> TruthfulRow:
    """A row in any of the forms.

    Raises:
        UserError: It is none of them, or broken.
    """
    if record.has("mc1_targets"):
        return _multiple_choice(record)
    if record.has("Question"):
        parts = {name: text_of(record, name).split(";") for name in ("Correct Answers", "Incorrect Answers")}
        correct, incorrect = (tuple(a.strip() for a in p if a.strip()) for p in parts.values())
        if not incorrect:
            raise record.error("`Incorrect Answers` names none; at least one is needed to compare with.")
        return _row(record, text_of(record, "Question"), text_of(record, "Best Answer"), correct, incorrect, "Category")
    correct, incorrect = texts_of(record, "correct_answers"), texts_of(record, "incorrect_answers")
    best = text_of(record, "best_answer") if record.has("best_answer") else correct[0]
    return _row(record, text_of(record, "question"), best, correct, incorrect, "category")


def _row(
    record: Record, question: str, best: str, correct: tuple[str, ...], incorrect: tuple[str, ...], category: str
) -> TruthfulRow:
    if best not in correct:
        correct = (best, *correct)
    named = about(record, category)
    return TruthfulRow(
        question=question,
        best=best,
        correct=correct,
        incorrect=incorrect,
        incorrect_beside_best=incorrect,
        **named,
    )


def _multiple_choice(record: Record) -> TruthfulRow:
    true_1, false_1 = _targets(record, "mc1_targets")
    correct, incorrect = _targets(record, "mc2_targets") if record.has("mc2_targets") else (true_1, false_1)
    if len(true_1) != 1:
        raise record.error(f"`mc1_targets.labels` marks {len(true_1)} choices as true; it must mark one.")
    return TruthfulRow(
        question=text_of(record, "question"),
        best=true_1[0],
        correct=correct,
        incorrect=incorrect,
        incorrect_beside_best=false_1,
        **about(record),
    )


def _targets(record: Record, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """True and false choices."""
    targets = object_of(record, name)
    choices, labels = texts_of(record, f"{name}.choices", targets.get("choices") or {}, 2), targets.get("labels")
    if not isinstance(labels, list) or len(labels) != len(choices) or any(label not in (0, 1) for label in labels):
        raise record.error(f"`{name}.labels` must have a 0 or 1 for each of the {len(choices)} choices.")
    by_label = {
        wanted: tuple(c for c, label in zip(choices, labels, strict=True) if label == wanted) for wanted in (1, 0)
    }
    if not by_label[1] or not by_label[0]:
        raise record.error(f"`{name}.labels` must mark at least one choice as true and one as false.")
    return by_label[1], by_label[0]
