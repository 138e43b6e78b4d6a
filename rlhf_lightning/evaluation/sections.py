"""The parts of an evaluation, each a function from what is on disk to a dictionary, computed when its inputs change."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lightning.artefacts import versions
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.fitting.identity import plain
from rlhf_lightning.whole_files import write_json

SECTIONS: dict[str, str] = {
    "outputs": "rlhf_lightning.evaluation.outputs",
    "preference": "rlhf_lightning.evaluation.preference",
    "tasks": "rlhf_lightning.evaluation.tasks.section",
    "lm_eval": "rlhf_lightning.evaluation.tasks.lm_eval_section",
    "trust": "rlhf_lightning.evaluation.trust.section",
}
"""Name of a section, in the order of computation, to its module, which has `SECTION`."""

ABOUT_FILE = "evaluation.json"


def _always(settings: EvaluateSettings) -> bool:
    return True


def _nothing_to_check(settings: EvaluateSettings, context: EvaluationContext) -> None:
    pass


@dataclass(frozen=True)
class Section:
    """One part of an evaluation."""

    run: Callable[[EvaluateSettings, EvaluationContext], dict[str, Any]]
    """Computes it. The result is JSON without NaN; with `incomplete: True` in it, it is computed again next time."""
    inputs: Callable[[EvaluateSettings, EvaluationContext], dict[str, Any]]
    """What the result depends on, as plain values: settings, fingerprints of files, `context.generation_digests()`.
    Versions of packages are added. A result that was made from the same is not made again."""
    wanted: Callable[[EvaluateSettings], bool] = _always
    """Whether the settings ask for it."""
    check: Callable[[EvaluateSettings, EvaluationContext], None] = _nothing_to_check
    """Raises a UserError about files and settings before anything is generated."""


def wanted_sections(settings: EvaluateSettings) -> dict[str, Section]:
    """The sections that the settings ask for, in order."""
    sections = {name: importlib.import_module(module).SECTION for name, module in SECTIONS.items()}
    return {name: section for name, section in sections.items() if section.wanted(settings)}


def result_path(out: Path, name: str) -> Path:
    """Where the result of a section is."""
    return out / "results" / f"{name}.json"


def read_result(out: Path, name: str) -> dict[str, Any] | None:
    """The result of a section; None where there is none.

    Args:
        out: The evaluation's directory.
        name: Of the section.

    Raises:
        UserError: The file is damaged.
    """
    record = _record(result_path(out, name))
    result: dict[str, Any] | None = record["result"] if record else None
    return result


def read_results(out: Path) -> dict[str, dict[str, Any]]:
    """The results that belong to the evaluation described in `evaluation.json`, by section.

    Those of an earlier one with other settings may be beside them.

    Raises:
        UserError: It has not finished, or a file is damaged.
    """
    about = read_about(out)
    results = {name: read_result(out, name) for name in about["sections"]}
    return {name: result for name, result in results.items() if result is not None}


def read_about(out: Path) -> dict[str, Any]:
    """`evaluation.json`.

    Raises:
        UserError: It is not there, or damaged.
    """
    path = out / ABOUT_FILE
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} is not there: no evaluation has finished in {str(out)!r}.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Evaluate again: responses that are there are kept.") from error
    return about


def run_section(name: str, section: Section, settings: EvaluateSettings, context: EvaluationContext) -> float:
    """Compute a section and write its result, unless it is there from the same inputs.

    Returns:
        Seconds that it took, then or now.
    """
    path = result_path(context.out, name)
    inputs = plain(section.inputs(settings, context)) | {"versions": versions()}
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    there = _record(path)
    if there and there["inputs"] == digest and not there["result"].get("incomplete"):
        return float(there["seconds"])
    start = time.perf_counter()
    result = section.run(settings, context)
    seconds = round(time.perf_counter() - start, 2)
    write_json(path, {"section": name, "inputs": digest, "seconds": seconds, "result": result}, indent=2)
    return seconds


def _record(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record if {"inputs", "seconds", "result"} <= record.keys() else None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}). Remove it, and the same command makes it again.") from error
