"""Questions about a text, answered in words: SQuADv2 and DROP (§4.2, App. D)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_lightning.bounds import check_number
from rlhf_lightning.data.records import Record
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.tasks.drop_matching import drop_scores
from rlhf_lightning.evaluation.tasks.reading_rows import ReadingRow, parse_drop, parse_squad
from rlhf_lightning.evaluation.tasks.resampling import Metric, mean_of
from rlhf_lightning.evaluation.tasks.shots import PromptedTask
from rlhf_lightning.evaluation.tasks.squad_matching import normalised, squad_scores
from rlhf_lightning.evaluation.tasks.task import Outcome


@dataclass(kw_only=True)
class _Reading(PromptedTask[ReadingRow]):
    """The most likely words, up to the first line end, are the answer (App. D).

    Args:
        max_tokens: Answers are stopped here.
    """

    max_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(f"{self.key}.max_tokens", self.max_tokens, at_least=1)

    def ask(self, model: LanguageModel, numbers: Sequence[int], seed: int) -> list[Outcome]:
        """See `Task.ask`."""
        prompts = [
            self.prompt(n, seed, self.question, lambda row: f"{self.question(row)} {self.shown_answer(row)}")
            for n in numbers
        ]
        found = model.generate(prompts, self.max_tokens, chat=self.chat)
        return [
            {"question": self.rows[n].question, "answer": c.text, **self.judge(self.rows[n], c.text), "cut": c.cut}
            for n, c in zip(numbers, found, strict=True)
        ]

    def question(self, row: ReadingRow) -> str:
        """A row as a question."""
        title = f"Title: {row.title}\n" if row.title else ""
        return f"{title}Background: {row.passage}\nQuestion: {row.question}\nAnswer:"

    @abstractmethod
    def shown_answer(self, row: ReadingRow) -> str:
        """A row's answer, as examples show it."""

    @abstractmethod
    def judge(self, row: ReadingRow, answer: str) -> Outcome:
        """Exact match and F1 of an answer."""

    @property
    def metrics(self) -> list[Metric]:
        """F1 and exact match."""
        return [mean_of("f1"), mean_of("exact_match")]


@dataclass(kw_only=True)
class Squad(_Reading):
    """SQuAD, version 2 (with questions that have no answer) or 1; `reading_rows.py` lists the formats it reads.

    The paper: no examples, and 4 (Table 14).

    Args:
        no_answer: What the instruction and the examples say where there is no answer; an answer that says it means
            none.
    """

    instruction: str = (
        "Answer the questions with words of the background. If the background does not say, answer: not stated"
    )
    no_answer: str = "not stated"

    def parse(self, record: Record) -> Iterable[ReadingRow]:
        """See `Task.parse`."""
        return parse_squad(record)

    def shown_answer(self, row: ReadingRow) -> str:
        """The first person's."""
        return row.answers[0][0] if row.answers else self.no_answer

    def judge(self, row: ReadingRow, answer: str) -> Outcome:
        """See `_Reading.judge`."""
        said = "" if normalised(answer) == normalised(self.no_answer) else answer
        exact, f1 = squad_scores(said, [a[0] for a in row.answers])
        kind = "answerable" if row.answers else "unanswerable"
        return {"truths": [a[0] for a in row.answers], "f1": f1, "exact_match": exact, f"f1_{kind}": f1}

    @property
    def metrics(self) -> list[Metric]:
        """F1 and exact match, and F1 of both kinds of questions."""
        return [*super().metrics, mean_of("f1_answerable"), mean_of("f1_unanswerable")]


@dataclass(kw_only=True)
class Drop(_Reading):
    """DROP: answers are numbers, dates, a span or several; `reading_rows.py` lists the formats it reads.

    The paper: no examples, and 4 (Table 14).

    Args:
        separator: Between the spans of an answer, in examples and in what the model answers; empty takes an answer as
            one span.
    """

    instruction: str = "Answer the questions about the background. Write ; between several answers."
    separator: str = ";"

    def parse(self, record: Record) -> Iterable[ReadingRow]:
        """See `Task.parse`."""
        return parse_drop(record)

    def shown_answer(self, row: ReadingRow) -> str:
        """The first person's."""
        return f"{self.separator or ','} ".join(row.answers[0])

    def judge(self, row: ReadingRow, answer: str) -> Outcome:
        """See `_Reading.judge`."""
        spans = answer.split(self.separator) if self.separator else [answer]
        exact, f1 = drop_scores([s.strip() for s in spans if s.strip()] or [""], row.answers)
        return {"truths": [list(a) for a in row.answers], "f1": f1, "exact_match": exact}
