"""What was lost or broken: the alignment tax and harms, task by task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlhf_lightning.evaluation.report.blocks import Section, Table, Text, Warnings, bounds, interval, mapping
from rlhf_lightning.evaluation.report.inputs import Inputs

_HARMS = ("truthful", "toxic", "bias", "refus", "crows", "winogender", "harm")
_Z = 1.96
_MOST = 12
"""Categories of a task that are listed."""


def tasks(inputs: Inputs) -> list[Section]:
    """One table for the tax and one for harms, with a row for each metric and a column for each model."""
    harms = mapping(mapping(inputs.results.get("tasks")).get("harms"))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for one in [*task_results(inputs.results), *_of_lm_eval(mapping(inputs.results.get("lm_eval")))]:
        found.setdefault(str(one["task"]), {})[str(one["model"])] = one
    sections = []
    for section_id, title, lead, wanted in (
        ("tax", "The alignment tax", "What the models do on tasks that nobody trained them for here.", False),
        ("harms", "Harms", "Truthfulness, toxicity, bias and refusals.", True),
    ):
        own = {task: by for task, by in found.items() if bool(harms.get(task, _sounds_harmful(task))) == wanted}
        if own:
            sections.append(_section(Section(section_id, title, [Text(lead)]), own, inputs.models))
    return sections


def _sounds_harmful(task: str) -> bool:
    """For tasks that nobody says it of, such as lm-eval's."""
    return any(h in task.lower() for h in _HARMS)


def _section(section: Section, found: dict[str, dict[str, dict[str, Any]]], order: list[str]) -> Section:
    there = {m for by_model in found.values() for m in by_model}
    models = [m for m in order if m in there] + sorted(there - set(order))
    rows: list[list[Any]] = []
    notes: list[str] = []
    for task, by_model in found.items():
        metrics = dict.fromkeys(m for one in by_model.values() for m in mapping(one.get("metrics")))
        for metric in metrics:
            values = [mapping(by_model.get(m, {}).get("metrics")).get(metric) for m in models]
            # A metric may concern some of the items only.
            known = [(m, v) for m, v in zip(models, values, strict=True) if v is not None]
            counts = [mapping(v).get("n", by_model[m].get("n")) for m, v in known]
            items = max((n for n in counts if isinstance(n, int)), default=None)
            rows.append([task, metric.replace("_", " "), items, *map(_cell, values)])
        notes += [f"{task}: {note}" for one in by_model.values() for note in one.get("notes") or []]
    note = "Brackets are 95 % intervals over items. Perplexity and nats are better when lower."
    section.blocks.append(Table("By task", ["task", "metric", "items", *models], rows, note))
    categories = _categories(found, models)
    if categories.rows:
        section.blocks.append(categories)
    if notes:
        section.blocks.append(Warnings(list(dict.fromkeys(notes))))
    return section


def _cell(value: Any) -> str | None:
    found = bounds(value)
    return None if found is None else interval(value, 3 if abs(found[0]) < 10 else 1)


def _categories(found: dict[str, dict[str, dict[str, Any]]], models: list[str]) -> Table:
    rows: list[list[Any]] = []
    for task, by_model in found.items():
        names = list(dict.fromkeys(c for one in by_model.values() for c in mapping(one.get("categories"))))
        for name in names[:_MOST]:
            groups = {m: mapping(mapping(by_model.get(m, {}).get("categories")).get(name)) for m in models}
            first = next((metric for group in groups.values() for metric in group), None)
            if first is not None:
                rows.append([task, name, first.replace("_", " "), *(_cell(groups[m].get(first)) for m in models)])
    return Table("By category", ["task", "category", "metric", *models], rows)


def _of_lm_eval(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """lm-eval's results, `{"acc,none": …, "acc_stderr,none": …}` by model and task, in the shape of the others."""
    for model, by_task in mapping(result.get("models")).items():
        for task, numbers in mapping(by_task).items():
            metrics: dict[str, Any] = {}
            for key, value in mapping(numbers).items():
                name, _, how = key.partition(",")
                if not how or name.endswith("_stderr"):
                    continue
                reach = _Z * numbers.get(f"{name}_stderr,{how}", 0.0)
                metrics[name if how == "none" else f"{name} ({how})"] = {
                    "mean": value, "low": value - reach, "high": value + reach
                }  # fmt: skip
            if metrics:
                notes = ["intervals are lm-eval's standard errors, times 1.96."]
                yield {"task": str(task), "model": str(model), "n": None, "metrics": metrics, "notes": notes}


def task_results(value: Any) -> Iterator[dict[str, Any]]:
    """Everything within a result that is a task's result, wherever it stands: it has a task, a model and metrics."""
    if isinstance(value, dict):
        if isinstance(value.get("metrics"), dict) and "task" in value and "model" in value:
            yield value
        else:
            for inner in value.values():
                yield from task_results(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from task_results(inner)
