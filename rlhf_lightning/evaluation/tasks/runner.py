"""Running a task on a model: outcomes as JSON lines, going on where a run was cut off, and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.tasks.outcome_file import OutcomeFile
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
    task: Task[Any],
    model: LanguageModel,
    directory: Path | str,
    seed: int = 1,
    progress: bool = True,
    overwrite: bool = False,
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
        overwrite: Replace results of another task, model or seed.

    Raises:
        UserError: The task's data is broken, or the directory holds results of another task, model or seed.
    """
    if not task.rows:
        task.prepare()
    kept = outcome_file(task, model.name, model.identity(), directory, seed)
    if overwrite and kept.conflict():
        kept.remove()
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


def outcome_file(
    task: Task[Any], model: str, model_identity: dict[str, str], directory: Path | str, seed: int
) -> OutcomeFile:
    """Where the outcomes of a prepared task are kept; the model need not be loaded.

    Args:
        task: The task.
        model: The model's name.
        model_identity: See `LanguageModel.identity`.
        directory: Where results are kept.
        seed: Seed of examples and samples.
    """
    identity = {**task.identity(), "seed": seed, "model": model_identity}
    return OutcomeFile(Path(directory) / model / f"{task.name}.jsonl", identity)
