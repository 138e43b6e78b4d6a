"""Perplexity of pretraining text: what the paper's PPO-ptx is to preserve (App. E.6, E.11)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_lightning.bounds import check_number
from rlhf_lightning.data.records import Record
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.tasks.resampling import Metric, Sums, ratio
from rlhf_lightning.evaluation.tasks.rows import TaskRow, about, text_of
from rlhf_lightning.evaluation.tasks.task import Outcome, Task


@dataclass(frozen=True, kw_only=True)
class TextRow(TaskRow):
    """A document."""

    text: str


@dataclass(kw_only=True)
class Perplexity(Task[TextRow]):
    """How likely a model finds texts, from rows with `text`.

    Documents are read one by one, in windows that do not overlap; means are over all tokens, intervals over documents.
    Only `bits_per_byte` can be compared between models with different tokenizers.

    Args:
        context_tokens: Length of the windows (the paper's models: 2k); at most the model's context.
    """

    context_tokens: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(f"{self.key}.context_tokens", self.context_tokens, at_least=2)

    def parse(self, record: Record) -> Iterable[TextRow]:
        """See `Task.parse`."""
        yield TextRow(text=text_of(record, "text"), **about(record))

    def ask(self, model: LanguageModel, numbers: Sequence[int], seed: int) -> list[Outcome]:
        """See `Task.ask`."""
        texts = [self.rows[n].text for n in numbers]
        found = model.text_nll(texts, self.context_tokens)
        return [
            {"nll": -likelihood.logprob, "tokens": likelihood.tokens, "bytes": len(text.encode())}
            for likelihood, text in zip(found, texts, strict=True)
        ]

    @property
    def metrics(self) -> list[Metric]:
        """Nats per token, their exponential, and bits per byte."""
        return [
            Metric("nats_per_token", lambda o: (o["nll"], o["tokens"])),
            Metric("perplexity", lambda o: (o["nll"], o["tokens"]), _exponential),
            Metric("bits_per_byte", lambda o: (o["nll"] / np.log(2), o["bytes"])),
        ]


def _exponential(sums: Sums) -> Sums:
    return np.exp(ratio(sums))
