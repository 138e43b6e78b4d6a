"""A row as it was read, with what an error message needs to find it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.errors import UserError

Unit = Literal["line", "row"]


def place(key: str, file: str, number: int | None = None, unit: Unit = "line") -> str:
    """The beginning of every message about input, e.g. "data.init_args.train: a.jsonl, line 3"."""
    return f"{key}: {file}" if number is None else f"{key}: {file}, {unit} {number}"


@dataclass(frozen=True)
class Record:
    """One row of any source before its kind is checked."""

    fields: dict[str, object]
    file: str
    """Path, or "org/name:split" on the Hub."""
    line: int
    """From 1: the line on which the row starts; the row's number where a source has no lines (`unit`)."""
    key: str = "data"
    """Configuration key that named the source."""
    unit: Unit = "line"

    def error(self, problem: str) -> UserError:
        """An error that names key, file and line; `problem` says what is wrong and what to do."""
        return UserError(f"{place(self.key, self.file, self.line, self.unit)}: {problem}")

    def has(self, name: str) -> bool:
        """Whether the field has a value; null counts as absent, because tables fill gaps with it."""
        return self.fields.get(name) is not None

    def require(self, name: str) -> object:
        """
        Raises:
            UserError: The field is missing or null.
        """
        if not self.has(name):
            # As JSON writes them: a name may hold a line break, and the message is one line.
            names = [json.dumps(n, ensure_ascii=False)[1:-1] for n in list(self.fields)[:12]]
            there = ", ".join(f"`{n}`" for n in names) or "no fields"
            problem = "is null" if name in self.fields else "is missing"
            raise self.error(f"`{name}` {problem}; the row has {there}. Add it, or point the key at other data.")
        return self.fields[name]
