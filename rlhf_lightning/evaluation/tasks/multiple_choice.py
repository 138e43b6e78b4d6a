"""Multiple choice by log-likelihood (App. D): the choice that the model finds most likely is its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.data.records import Record
from rlhf_lightning.evaluation.language_model import LanguageModel, Likelihood
from rlhf_lightning.evaluation.tasks.choice_rows import ChoiceRow, parse_choice
from rlhf_lightning.evaluation.tasks.resampling import Metric, mean_of
from rlhf_lightning.evaluation.tasks.shots import PromptedTask
from rlhf_lightning.evaluation.tasks.task import Outcome

Normalisation = Literal["tokens", "sum", "bytes"]


@dataclass(kw_only=True)
class MultipleChoice(PromptedTask[ChoiceRow]):
    """Accuracy on questions with given choices; `choice_rows.py` lists the formats it reads.

    The paper's few-shot counts (Table 14): HellaSwag, SST, RTE and WSC 15.

    Args:
        normalise: What makes choices of different lengths comparable: mean log-probability of a token (App. D, which
            says that the lowest one wins and must mean the highest), the sum as it is, or the sum divided by the length
            in bytes. All three accuracies are reported; this one is called `accuracy`.
    """

    normalise: Normalisation = "tokens"

    def parse(self, record: Record) -> Iterable[ChoiceRow]:
        """See `Task.parse`."""
        yield parse_choice(record)

    def ask(self, model: LanguageModel, numbers: Sequence[int], seed: int) -> list[Outcome]:
        """See `Task.ask`."""
        pairs = []
        for number in numbers:
            context = self.prompt(number, seed, lambda r: r.question, lambda r: r.question + r.choices[r.answer])
            pairs += [(context, choice) for choice in self.rows[number].choices]
        found = iter(model.loglikelihood(pairs, chat=self.chat))
        return [self._outcome(self.rows[n], [next(found) for _ in self.rows[n].choices]) for n in numbers]

    def _outcome(self, row: ChoiceRow, found: Sequence[Likelihood]) -> Outcome:
        picked = {how: best(found, row.choices, how) for how in ("tokens", "sum", "bytes")}
        return {
            "choices": list(row.choices),
            "answer": row.answer,
            "logprobs": [f.logprob for f in found],
            "tokens": [f.tokens for f in found],
            "picked": picked[self.normalise],
            "accuracy": float(picked[self.normalise] == row.answer),
            **{f"accuracy_by_{how}": float(choice == row.answer) for how, choice in picked.items()},
            "cut": any(f.cut for f in found),
        }

    @property
    def metrics(self) -> list[Metric]:
        """Accuracies."""
        return [mean_of("accuracy"), *(mean_of(f"accuracy_by_{how}") for how in ("tokens", "sum", "bytes"))]


def best(found: Sequence[Likelihood], choices: Sequence[str], normalise: str) -> int:
    """The number of the choice with the highest log-probability, the first one of equals."""
    lengths = {
        "tokens": [f.tokens for f in found],
        "sum": [1] * len(found),
        "bytes": [len(choice.strip().encode()) for choice in choices],
    }[normalise]
    scores = [f.logprob / length for f, length in zip(found, lengths, strict=True)]
    return scores.index(max(scores))
