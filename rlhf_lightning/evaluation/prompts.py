"""The prompts of an evaluation: which there are, and what the random numbers of each go by."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_lightning.data.kinds import Prompt, PromptLike
from rlhf_lightning.data.loading import load
from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.prompts import PromptRow
from rlhf_lightning.prompt_template import plain_text
from rlhf_lightning.seeding import derive_seed


@dataclass(frozen=True)
class EvaluationPrompt:
    """One prompt, asked of every model."""

    id: str
    """Unique: the row's own, or `row-<number>`."""
    prompt: PromptLike
    fields: dict[str, Any]
    """All other fields of its row."""
    occurrence: int
    """How many equal prompts stand before it."""
    where: str
    """File and line."""

    @property
    def text(self) -> str:
        """The prompt as plain text."""
        return plain_text(self.prompt)

    @property
    def row(self) -> PromptRow:
        """As rewards read it."""
        return PromptRow(self.prompt, self.fields)

    def seed(self, seed: int, sample: int) -> int:
        """Of the random numbers of one response: by content, so that other prompts around it change nothing."""
        return derive_seed(seed, f"response to {_digest(self.prompt)}", self.occurrence, sample)


@dataclass(frozen=True)
class EvaluationPrompts:
    """All prompts, in order."""

    rows: list[EvaluationPrompt]
    fingerprint: str
    """Of their content, other fields included."""
    skipped: int
    """Broken rows that were left out."""


def load_prompts(
    source: str | Sequence[str], limit: int | None = None, on_bad_row: Literal["error", "skip"] = "error"
) -> EvaluationPrompts:
    """Read and check prompts.

    Raises:
        UserError: A broken row, or two with the same `id`.
    """
    loaded = load(Prompt, source, "prompts", on_bad_row, limit)
    seen: Counter[str] = Counter()
    first: dict[str, str] = {}
    rows = []
    for number, row in enumerate(loaded.rows):
        where, name = f"{row.file}:{row.line}", row.id if row.id is not None else f"row-{number}"
        if name in first:
            raise UserError(f"prompts: {where} and {first[name]} have the same id {name!r}; give each its own.")
        first[name] = where
        digest = _digest(row.prompt)
        fields = {k: v for k, v in PromptRow.of(row).fields.items() if k != "id"}
        rows.append(EvaluationPrompt(name, row.prompt, fields, seen[digest], where))
        seen[digest] += 1
    return EvaluationPrompts(rows, loaded.fingerprint, len(loaded.skipped))


def _digest(prompt: PromptLike) -> str:
    chat = prompt if isinstance(prompt, str) else [[m.role, m.content] for m in prompt]
    return hashlib.sha256(json.dumps(chat).encode()).hexdigest()
