"""The four kinds of rows, as checked and typed values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


PromptLike: TypeAlias = str | tuple[Message, ...]
"""A plain string, which stands for one user message, or a chat that does not end with the assistant."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every kind of row may say about itself."""

    file: str = ""
    """Path, or "org/name:split" on the Hub."""
    line: int = 0
    """From 1: the line of a text file, else the row's number."""
    id: str | None = None
    source: str | None = None
    category: str | None = None
    labeler: str | None = None
    labeler_group: str | None = None
    flags: tuple[str, ...] = ()
    """Names of what was flagged, e.g. "toxic"."""
    meta: dict[str, object] = field(default_factory=dict, hash=False)
    """All other fields, as they were read, without nulls."""


@dataclass(frozen=True)
class Demonstration(Row):
    """A conversation to imitate: its assistant turns carry the loss, and it ends with one."""

    messages: tuple[Message, ...]
    plain_prompt: bool = False
    """Whether the prompt came as one string and not as chat messages."""

    @property
    def prompt(self) -> PromptLike:
        """Everything before the last assistant turn, in the form in which it was given."""
        before = self.messages[:-1]
        return before[0].content if self.plain_prompt else before

    @property
    def response(self) -> str:
        """The last assistant turn."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Ranking(Row):
    """A prompt with K >= 2 responses, ranked; a pair is the case K = 2 with ranks (1, 2)."""

    prompt: PromptLike
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    """One per response: 1 is best, equal numbers are ties, dense (1, 2, 2, 3)."""


@dataclass(frozen=True)
class Prompt(Row):
    """A prompt to roll out from."""

    prompt: PromptLike


@dataclass(frozen=True)
class Text(Row):
    """A piece of pretraining text."""

    text: str
