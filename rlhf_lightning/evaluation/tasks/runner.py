"""Running a task on a model: outcomes as JSON lines, going on where a run was cut off, and the summary."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.tasks.resampling import Estimate, estimate
from rlhf_lightning.evaluation.tasks.task import Outcome, Task
from rlhf_lightning.seeding import derive_seed

CHUNK = 64
"""Items that are asked together and written together. Always the same ones, so that a run that was cut off computes
the same batches, and gets the same numbers, as one that was not."""


@dataclass(frozen=True)
class TaskResult:
    """A task's metrics for a model."""

    task: str
    model: str
    n: int
    """Items."""
    metrics: dict[str, Estimate]
    categories: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """Metrics of each category, where rows have one."""
    cut: int = 0
    """Items whose prompt lost its beginning because it did not fit into the model."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know."""
    outcomes: str = ""
    """The file that has every item's outcome."""


def run_task(
    task: Task[Any], model: LanguageModel, directory: Path | str, seed: int = 1, progress: bool = True
) -> TaskResult:
    """Ask a model about every row of a task, and sum up.

    `<directory>/<model>/<task>.jsonl` gets a line for each row, `<task>.json` beside it what the lines depend on and,
    at the end, the result. Rows that have a line there are not asked again.

    Args:
        task: The task; it is prepared if it is not yet.
        model: The model.
        directory: Where results are kept.
        seed: Seed of examples, samples and intervals.
        progress: Show a bar.

    Raises:
        UserError: The task's data is broken, or the directory holds results of another task, model or seed.
    """
    if not task.rows:
        task.prepare()
    kept = OutcomeFile(Path(directory) / model.name / f"{task.name}.jsonl", _identity(task, model, seed))
    outcomes = kept.read(len(task.rows))
    with tqdm(
        total=len(task.rows), initial=len(outcomes), desc=f"{model.name}: {task.name}", unit="row", disable=not progress
    ) as bar:
        while len(outcomes) < len(task.rows):
            start = len(outcomes)
            numbers = range(start, min((start // CHUNK + 1) * CHUNK, len(task.rows)))
            about = [_about(task, n) for n in numbers]
            found = [{**a, **o} for a, o in zip(about, task.ask(model, numbers, seed), strict=True)]
            kept.append(found)
            outcomes += found
            bar.update(len(found))
    result = summarise(task, model.name, outcomes, seed, str(kept.path))
    kept.finish(asdict(result))
    return result


def summarise(task: Task[Any], model: str, outcomes: Sequence[Outcome], seed: int = 1, path: str = "") -> TaskResult:
    """Metrics of a task from the outcomes of its items, over all and in each category."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.get("category"):
            groups.setdefault(str(outcome["category"]), []).append(outcome)
    cut = sum(bool(outcome.get("cut")) for outcome in outcomes)
    metrics = _estimates(task, outcomes, seed)
    categories = {name: _estimates(task, groups[name], seed) for name in sorted(groups)}
    return TaskResult(task.name, model, len(outcomes), metrics, categories, cut, task.notes, path)


def _estimates(task: Task[Any], outcomes: Sequence[Outcome], seed: int) -> dict[str, Estimate]:
    found = {m.name: estimate(m, outcomes, derive_seed(seed, "bootstrap")) for m in task.metrics}
    return {name: value for name, value in found.items() if value is not None}


def _about(task: Task[Any], number: int) -> Outcome:
    row = task.rows[number]
    named = {"id": row.id, "category": row.category}
    return {"item": number, **{k: v for k, v in named.items() if v}}


def _identity(task: Task[Any], model: LanguageModel, seed: int) -> dict[str, Any]:
    return {**task.identity(), "seed": seed, "model": model.identity()}


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._about.is_file():
            if self.path.exists():
                raise UserError(f"{self.path} has no {self._about.name} beside it that says what it is. {_REMEDY}")
            self._write({"identity": self.identity})
            return []
        try:
            before = json.loads(self._about.read_text())["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._about} is damaged. {_REMEDY}") from error
        if before != self.identity:
            raise UserError(f"{self.path} has results of another run: {_difference(before, self.identity)}. {_REMEDY}")
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
        temporary = self._about.with_name(f".{self._about.name}.tmp")
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        temporary.replace(self._about)


_REMEDY = "Delete it, or choose another directory."


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    different = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if not different:
        return "another order of keys"
    name = different[0]
    return f"`{name}` was {str(before.get(name))[:80]} there and is {str(now.get(name))[:80]} now"
