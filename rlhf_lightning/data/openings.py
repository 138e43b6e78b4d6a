"""Whether validation prompts are training prompts too, from a digest of each instead of the rows."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, PromptLike, Ranking, Row, Text

DIGEST_BYTES = 16
"""Among 10^9 different prompts, two share a digest with a probability below 10^-20."""


def digest(row: Row) -> bytes:
    """16 bytes that are the same for rows with the same prompt, as `Openings` compares them."""
    text = json.dumps(_opening(row)).encode("ascii")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


class Openings:
    """The prompts of one split, 16 bytes each.

    Surrounding white space does not make prompts different, nor does a string instead of one user message.
    Conversations are compared up to their first assistant turn, pretraining texts whole.
    """

    def __init__(self) -> None:
        self._digests = bytearray()

    def add(self, row: Row) -> None:
        """Note the prompt of a row."""
        self._digests += digest(row)

    def different(self) -> int:
        """How many different prompts there are."""
        return len(self._unique())

    def shared_with(self, other: Openings) -> int:
        """How many different prompts occur in both."""
        ours, theirs = self._unique(), other._unique()
        return len(ours) + len(theirs) - len(np.unique(np.concatenate([ours, theirs]), axis=0))

    def _unique(self) -> NDArray[np.uint64]:
        return np.unique(np.frombuffer(self._digests, dtype="2u8"), axis=0)


def _opening(row: Row) -> list[tuple[str, str]]:
    prompt: PromptLike = row.text if isinstance(row, Text) else ""
    if isinstance(row, Demonstration):
        first = next(i for i, m in enumerate(row.messages) if m.role == "assistant")
        prompt = row.messages[:first]
    elif isinstance(row, Ranking | Prompt):
        prompt = row.prompt
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return [(m.role, m.content.strip()) for m in messages]
