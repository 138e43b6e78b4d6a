"""Who decides which of two responses to a prompt is the better one."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rlhf_lightning.errors import UserError

if TYPE_CHECKING:
    from rlhf_lightning.evaluation.context import EvaluationContext

Verdict: TypeAlias = Literal["first", "second", "tie"]
VERDICTS: tuple[Verdict, ...] = ("first", "second", "tie")


class JudgeError(UserError):
    """A judge failed, or said something that is no verdict."""


@dataclass(frozen=True)
class Answer:
    """A response to be scored."""

    id: str
    """Of the prompt."""
    sample: int
    prompt: str
    response: str
    ended: bool
    """It came to its own end."""
    fields: dict[str, Any]
    """The other fields of the prompt's row."""
    model: str
    """Whose it is: for judges that look something up, none that judges should be told."""
    scores: dict[str, float]
    """Of the evaluation's reward models."""


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, in the order in which the judge sees them."""

    first: Answer
    second: Answer

    @property
    def prompt(self) -> str:
        return self.first.prompt

    @property
    def fields(self) -> dict[str, Any]:
        """The other fields of the prompt's row."""
        return self.first.fields


class Judge(ABC):  # noqa: B024  both kinds have a method of their own
    """What all judges have in common; subclass `ScoringJudge` or `PairJudge`."""

    batch_size: int = 64
    """Responses or pairs of one call."""
    remembered: bool = False
    """What it says is kept in `judgements/<judge>.jsonl`, found again by prompt, responses and the judge's class and
    public attributes. Remove that file after a change of its code that should count."""

    def check(self, context: EvaluationContext, key: str) -> None:
        """Find out whether it can judge these prompts, before anything is generated.

        Args:
            context: The evaluation.
            key: Its place in the configuration, for messages.

        Raises:
            UserError: It cannot.
        """

    def content(self) -> str:
        """A digest of what its verdicts depend on beside its attributes, by default its source file; results are
        computed again when it changes."""
        file = inspect.getsourcefile(type(self))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""

    def trained_against(self, context: EvaluationContext, model: str) -> bool | None:
        """Whether a model was optimized for this judge's verdicts, which then say little; None if nobody knows."""
        return False


class ScoringJudge(Judge):
    """Gives each response a number of its own; the higher one wins."""

    tie_margin: float = 0.0
    """Numbers that differ by no more than this are a tie."""

    @abstractmethod
    def score(self, answers: Sequence[Answer]) -> Sequence[float | None]:
        """A finite number for each response; None where it cannot tell."""


class PairJudge(Judge):
    """Compares two responses. It is asked twice, once in each order, and not about responses that are equal."""

    remembered = True

    @abstractmethod
    def compare(self, pairs: Sequence[Pair]) -> Sequence[Verdict | None]:
        """ "first", "second" or "tie" for each pair; None where it cannot tell."""


class RewardJudge(ScoringJudge):
    """The scores of one of the evaluation's reward models."""

    def __init__(self, reward: str = "reward", tie_margin: float = 0.0) -> None:
        """
        Args:
            reward: Its name in `reward`.
            tie_margin: Scores that differ by no more are a tie.
        """
        self.reward, self.tie_margin = reward, tie_margin

    def check(self, context: EvaluationContext, key: str) -> None:
        if self.reward not in context.reward_sources:
            there = ", ".join(context.reward_sources) or "none"
            raise UserError(f"{key}: there is no reward model called {self.reward!r} in `reward` ({there}).")

    def trained_against(self, context: EvaluationContext, model: str) -> bool | None:
        return context.entries[model].trained_against(context.reward_sources[self.reward])

    def score(self, answers: Sequence[Answer]) -> Sequence[float | None]:
        return [answer.scores.get(self.reward) for answer in answers]
