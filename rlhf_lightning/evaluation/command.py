"""`python -m rlhf_lightning evaluate`: answer, judge, measure, and say where the results are."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_lightning.artefacts import versions
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.commands import parse_settings
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.generating import check_prompts, generate_all
from rlhf_lightning.evaluation.report.command import ReportSettings, write_report
from rlhf_lightning.evaluation.sections import ABOUT_FILE, read_results, run_section, wanted_sections
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.evaluation.tasks.section import summary_table
from rlhf_lightning.fitting.run_lock import RunLock
from rlhf_lightning.ppo.reward_terms import describe
from rlhf_lightning.provenance import commit
from rlhf_lightning.whole_files import write_json


def main(args: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit status.
    """
    settings = parse_settings(EvaluateSettings, "evaluate", args)
    out = evaluate(settings, command=["evaluate", *args])
    print(summary(out))
    page = write_report(ReportSettings(str(out)))
    print(f"Written: {page}; {out / 'generations'}, {out / 'results'}, {out / ABOUT_FILE}")
    return 0


def evaluate(settings: EvaluateSettings, command: Sequence[str] = ()) -> Path:
    """Do what the settings say, or what is left of it.

    Args:
        settings: See `EvaluateSettings`.
        command: The command line, to be written down.

    Returns:
        The directory of the results.

    Raises:
        UserError: Something the user gave cannot be used. What is on disk stays.
    """
    start = time.perf_counter()
    out = _writable(Path(settings.out).expanduser())
    lock = RunLock("out", "evaluating")
    lock.acquire(out)
    try:
        context = EvaluationContext(settings)
        sections = wanted_sections(settings)
        for section in sections.values():
            section.check(settings, context)
        check_prompts(context)
        generations = generate_all(context)
        seconds = {name: run_section(name, section, settings, context) for name, section in sections.items()}
        wall_s = round(time.perf_counter() - start, 2)
        write_json(out / ABOUT_FILE, _about(context, command, generations, seconds, wall_s), indent=2)
    finally:
        lock.release()
    return out


def summary(out: Path) -> str:
    """The most important numbers as a Markdown table, from what is on disk."""
    results = read_results(out)
    outputs, preference = results["outputs"], results.get("preference", {"judges": {}, "baseline": ""})
    judges = preference["judges"]
    columns = ["model", *(f"wins by {j} vs {preference['baseline']}" for j in judges), *(f"Elo by {j}" for j in judges)]
    columns += ["KL", "tokens", "EOS", "distinct-2"]
    rows = []
    for name, model in outputs["models"].items():
        wins = [_cell(j["win_rates"].get(name, {}).get("win_rate")) for j in judges.values()]
        wins = [
            f"{w} (trained on it)" if j["trained_against"][name] else w
            for w, j in zip(wins, judges.values(), strict=True)
        ]
        elo = [_cell(j["ratings"][name]["elo"], 0) for j in judges.values()]
        rows.append([name, *wins, *elo, _cell(model["kl"], 2), _cell(model["response_tokens"], 1)])
        rows[-1] += [_cell(model["eos_rate"], 2), f"{model['distinct_2'] or 0:.2f}"]
    tasks = results.get("tasks")
    return "\n\n".join([markdown_table(columns, rows), *([summary_table(tasks)] if tasks else [])])


def _cell(interval: dict[str, float] | None, digits: int = 3) -> str:
    if interval is None:
        return "—"
    low, high = interval["low"], interval["high"]
    mean = f"{interval['mean']:.{digits}f}"
    return mean if low == high else f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"


def _about(
    context: EvaluationContext,
    command: Sequence[str],
    generations: dict[str, dict[str, Any]],
    seconds: dict[str, float],
    wall_s: float,
) -> dict[str, Any]:
    return {
        "command": ["python", "-m", "rlhf_lightning", *command],
        "settings": _plain(context.settings),
        "commit": commit(),
        "versions": versions(),
        "python": sys.version.split()[0],
        "device": str(context.device),
        **context.describe(),
        "generations": generations,
        "sections": seconds,
        "wall_s": wall_s,
    }


def _plain(settings: EvaluateSettings) -> dict[str, Any]:
    from rlhf_lightning.fitting.identity import plain

    values = {k: v for k, v in vars(settings).items() if k not in ("judges", "tasks")}
    described: dict[str, Any] = plain(values) | {"judges": {n: describe(j) for n, j in settings.judges.items()}}
    described["tasks"] = {task.name: task.identity() for task in settings.tasks}
    return described


def _writable(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: cannot write to {str(out)!r}: {error.strerror}. Choose another directory.") from error
    return out
