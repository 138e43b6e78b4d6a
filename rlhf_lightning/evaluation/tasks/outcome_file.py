"""The outcomes of a task on disk, and what they depend on beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.tasks.task import Outcome
from rlhf_lightning.whole_files import write_json


class OutcomeFile:
    """The outcomes of a task so far, in the order of its items."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """
        Args:
            path: The file, `.jsonl`; its description is beside it, `.json`.
            identity: What the outcomes depend on.
        """
        self.path, self.identity = path, json.loads(json.dumps(identity))
        self._about = path.with_suffix(".json")

    def read(self, count: int) -> list[Outcome]:
        """The outcomes that are there; a line that was cut off while it was written is removed.

        Args:
            count: How many items there are.

        Raises:
            UserError: They are of another task, model or seed, or damaged.
        """
        if conflict := self.conflict():
            raise UserError(f"{conflict} {_REMEDY}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._about.is_file():
            self._write({"identity": self.identity})
            return []
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            outcomes = [json.loads(line) for line in whole.splitlines()]
            items = [outcome["item"] for outcome in outcomes]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is damaged ({error}). {_REMEDY}") from error
        if items != list(range(len(items))) or len(items) > count:
            raise UserError(f"{self.path} is damaged: its items are not 0, 1, 2, ... in order. {_REMEDY}")
        return outcomes

    def conflict(self) -> str:
        """Why what is there cannot be continued; empty where it can, or where nothing is."""
        if not self._about.is_file():
            lost = self.path.exists()
            return f"{self.path} has no {self._about.name} beside it that says what it is." if lost else ""
        try:
            before = json.loads(self._about.read_text())["identity"]
        except (ValueError, KeyError, TypeError):
            return f"{self._about} is damaged."
        if before == self.identity:
            return ""
        return f"{self.path} has results of another run: {_difference(before, self.identity)}."

    def remove(self) -> None:
        """Delete what is there."""
        self.path.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes, all at once and to the disk."""
        text = "".join(json.dumps(outcome, ensure_ascii=False) + "\n" for outcome in outcomes)
        with self.path.open("ab", buffering=0) as file:
            file.write(text.encode())
            os.fsync(file.fileno())

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result beside the outcomes."""
        self._write({"identity": self.identity, "result": result})

    def _write(self, value: dict[str, Any]) -> None:
        write_json(self._about, value, indent=2, ascii_only=False)


_REMEDY = "Delete it, choose another directory, or set `overwrite`."


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    different = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if not different:
        return "another order of keys"
    name = different[0]
    return f"`{name}` was {str(before.get(name))[:80]} there and is {str(now.get(name))[:80]} now"
