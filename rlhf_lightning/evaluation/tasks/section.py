"""Tasks as a section of `evaluate`: results of every task on every model, and outcomes of rows in `tasks/`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.language_model import LanguageModel, model_identity
from rlhf_lightning.evaluation.sections import Section
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.evaluation.tasks.resampling import Estimate
from rlhf_lightning.evaluation.tasks.runner import TaskResult, outcome_file, run_task


def language_model(context: EvaluationContext, name: str) -> LanguageModel:
    """A model of an evaluation, as tasks ask it; loaded now if it is not yet."""
    model, reader = context.model(name), context.reader(name)
    return LanguageModel(
        name,
        model.backbone,
        model.adapter,
        reader.template,
        reader.limits,
        context.fingerprints[name],
        context.settings.micro_batch_tokens,
    )


def tasks(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    """Run every task on every model that has weights.

    Returns:
        `models`: by name, every task by name, with `n` (rows), `metrics` (an interval and its own `n` each),
        `categories` (the same for each category of rows), `cut` (prompts that lost their beginning), `notes` and
        `outcomes` (the file with every row's). `headline`: by task, the metrics to show first. `harms`: by task,
        whether it is about harms. `without_weights`: models that are files.
    """
    results: dict[str, dict[str, Any]] = {}
    for name in context.loadable:
        context.release(name)
        model = language_model(context, name)
        results[name] = {
            task.name: _plain(
                run_task(task, model, _directory(context), settings.seed, overwrite=settings.overwrite), context.out
            )
            for task in settings.tasks
        }
    return {
        "models": results,
        "headline": {task.name: task.headline for task in settings.tasks},
        "harms": {task.name: task.about_harms for task in settings.tasks},
        "without_weights": [name for name in context.entries if name not in context.loadable],
    }


def summary_table(result: dict[str, Any]) -> str:
    """The most important numbers as a Markdown table: a row for each metric, a column for each model."""
    models = result["models"]
    rows = []
    for task, names in result["headline"].items():
        for name in names:
            found = [models[model][task]["metrics"].get(name) for model in models]
            if any(found):
                rows.append([task, name, *(str(Estimate(**f)) if f else "—" for f in found)])
    return markdown_table(["task", "metric", *models], rows)


def _check(settings: EvaluateSettings, context: EvaluationContext) -> None:
    """Read all data, and see that no results of another run are in the way."""
    names = [task.name for task in settings.tasks]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"tasks: two are called {repeated[0]!r}; give each a `name` of its own.")
    if not context.loadable:
        raise UserError("tasks: none of the models has weights, and files of responses cannot be asked anything.")
    for task in settings.tasks:
        task.prepare()
        for name in context.loadable:
            identity = model_identity(context.fingerprints[name], context.dtype)
            conflict = outcome_file(task, name, identity, _directory(context), settings.seed).conflict()
            if conflict and not settings.overwrite:
                raise UserError(
                    f"tasks.{task.name}: {conflict} Choose another `out`, or set `overwrite` to replace it."
                )


def _inputs(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    models = {name: model_identity(context.fingerprints[name], context.dtype) for name in context.loadable}
    formats = [settings.prompt_format, settings.chat_template]
    identities = {task.name: task.identity() for task in settings.tasks}
    return {"tasks": identities, "models": models, "seed": settings.seed, "formats": formats}


def _directory(context: EvaluationContext) -> Path:
    return context.out / "tasks"


def _plain(result: TaskResult, out: Path) -> dict[str, Any]:
    """A result as JSON, with the path of its outcomes inside the evaluation's directory."""
    return {**asdict(result), "outcomes": str(Path(result.outcomes).relative_to(out))}


SECTION = Section(tasks, _inputs, lambda settings: bool(settings.tasks), _check)
