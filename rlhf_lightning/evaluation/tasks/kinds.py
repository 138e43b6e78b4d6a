"""Every kind of task, so that a configuration can name one by its class alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from rlhf_lightning.evaluation.tasks.bias import SentencePairs
from rlhf_lightning.evaluation.tasks.multiple_choice import MultipleChoice
from rlhf_lightning.evaluation.tasks.perplexity import Perplexity
from rlhf_lightning.evaluation.tasks.reading import Drop, Squad
from rlhf_lightning.evaluation.tasks.refusals import Refusals
from rlhf_lightning.evaluation.tasks.task import Task
from rlhf_lightning.evaluation.tasks.toxicity import Toxicity
from rlhf_lightning.evaluation.tasks.truthfulness import TruthfulQA
from rlhf_lightning.evaluation.tasks.writing import Summarization, Translation

if TYPE_CHECKING:
    AnyTask: TypeAlias = Task[Any]
else:
    AnyTask = Task  # with parameters, the parser looks for a subclass's options in the base

KINDS: tuple[type[Task[Any]], ...] = (
    *(Perplexity, MultipleChoice, Squad, Drop, Summarization, Translation),
    *(TruthfulQA, Toxicity, SentencePairs, Refusals),
)
