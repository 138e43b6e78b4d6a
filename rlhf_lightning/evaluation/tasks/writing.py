"""Texts compared with references: summaries (CNN/DM, TL;DR) and translations (WMT), §4.2 and App. D."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.bounds import check_number
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.tasks.overlap import ROUGE, bleu_metric, bleu_parts, require, rouge_scores
from rlhf_lightning.evaluation.tasks.resampling import Metric, mean_of
from rlhf_lightning.evaluation.tasks.rows import TaskRow, about, first_of, inside, object_of, text_of, texts_of
from rlhf_lightning.evaluation.tasks.shots import PromptedTask
from rlhf_lightning.evaluation.tasks.task import Outcome

BleuTokenizer = Literal["13a", "intl", "zh", "char", "none"]


@dataclass(frozen=True, kw_only=True)
class WritingRow(TaskRow):
    """A text to turn into another one."""

    text: str
    references: tuple[str, ...]
    """At least one."""


@dataclass(kw_only=True)
class Summarization(PromptedTask[WritingRow]):
    """Summaries, by ROUGE.

    Rows have `document` and `summary`, or the names that CNN/DM, XSum and TL;DR use: `article` and `highlights`, `post`
    and `summary`, `prompt` and `label`; several references as a list.

    Args:
        question: How the text is put to the model.
        max_tokens: Summaries are stopped here.
    """

    instruction: str = ""
    question: str = "{text}\n\nTL;DR:"
    max_tokens: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_writing(self.key, self.question, self.max_tokens)

    def prepare(self) -> None:
        """See `Task.prepare`."""
        require("rouge-score", "rouge_score", self.key)
        super().prepare()

    def parse(self, record: Record) -> Iterable[WritingRow]:
        """See `Task.parse`."""
        name = first_of(record, ("summary", "highlights", "label"))
        value = record.fields[name]
        references = texts_of(record, name, value if isinstance(value, list) else [value])
        yield WritingRow(
            text=text_of(record, "document", "article", "post", "prompt"), references=references, **about(record)
        )

    def ask(self, model: LanguageModel, numbers: Sequence[int], seed: int) -> list[Outcome]:
        """See `Task.ask`."""
        outcomes = _write(self, self.question, self.max_tokens, model, numbers, seed)
        for n, outcome in zip(numbers, outcomes, strict=True):
            outcome.update(rouge_scores(outcome["answer"], self.rows[n].references))
        return outcomes

    @property
    def metrics(self) -> list[Metric]:
        """ROUGE, from 0 to 1."""
        return [mean_of(name) for name in ROUGE]


@dataclass(kw_only=True)
class Translation(PromptedTask[WritingRow]):
    """Translations, by corpus BLEU (sacrebleu).

    Rows have `source` and `target` (a text, or a list of several), or WMT's `translation`: {"fr": ..., "en": ...}. The
    paper: French to English, 15 examples.

    Args:
        from_language: Key of the source in `translation`.
        to_language: Key of the target in `translation`.
        question: How the text is put to the model.
        tokenizer: sacrebleu's: zh for Chinese, char where words are not separated.
        max_tokens: Translations are stopped here.
    """

    from_language: str = "fr"
    to_language: str = "en"
    instruction: str = "Translate French to English."
    question: str = "French: {text}\nEnglish:"
    tokenizer: BleuTokenizer = "13a"
    max_tokens: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_writing(self.key, self.question, self.max_tokens)

    def prepare(self) -> None:
        """See `Task.prepare`."""
        require("sacrebleu", "sacrebleu", self.key)
        super().prepare()

    def parse(self, record: Record) -> Iterable[WritingRow]:
        """See `Task.parse`."""
        source, target = "source", "target"
        row = record
        if record.has("translation"):
            row = inside(record, object_of(record, "translation"), f"line {record.line}, translation")
            source, target = self.from_language, self.to_language
        value = row.require(target)
        references = texts_of(row, target, value if isinstance(value, list) else [value])
        yield WritingRow(text=text_of(row, source), references=references, **about(record))

    def ask(self, model: LanguageModel, numbers: Sequence[int], seed: int) -> list[Outcome]:
        """See `Task.ask`."""
        outcomes = _write(self, self.question, self.max_tokens, model, numbers, seed)
        for n, outcome in zip(numbers, outcomes, strict=True):
            outcome["bleu"] = bleu_parts(outcome["answer"], self.rows[n].references, self.tokenizer)
        return outcomes

    @property
    def metrics(self) -> list[Metric]:
        """BLEU, from 0 to 100."""
        return [bleu_metric()]


def _check_writing(key: str, question: str, max_tokens: int) -> None:
    check_number(f"{key}.max_tokens", max_tokens, at_least=1)
    if "{text}" not in question:
        raise UserError(f"{key}.question is {question!r}; it must contain '{{text}}'.")


def _write(
    task: PromptedTask[WritingRow],
    question: str,
    max_tokens: int,
    model: LanguageModel,
    numbers: Sequence[int],
    seed: int,
) -> list[Outcome]:
    def ask(row: WritingRow) -> str:
        return question.replace("{text}", row.text)

    prompts = [task.prompt(n, seed, ask, lambda row: f"{ask(row)} {row.references[0]}") for n in numbers]
    found = model.generate(prompts, max_tokens, chat=task.chat)
    return [
        {"answer": c.text, "references": list(task.rows[n].references), "ended": c.ended, "cut": c.cut}
        for n, c in zip(numbers, found, strict=True)
    ]
