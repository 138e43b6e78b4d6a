"""What there is to report on: an evaluation's directory, and the runs of the stages whose models it compares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_lightning.artefacts import STAGE_FILE
from rlhf_lightning.data.card.card import CARD_FILE
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.report.blocks import mapping
from rlhf_lightning.evaluation.sections import ABOUT_FILE


@dataclass(frozen=True)
class Run:
    """A stage's run directory."""

    name: str
    path: Path
    info: dict[str, Any]
    """Its `stage.json`."""

    @property
    def stage(self) -> str:
        return str(self.info.get("stage", "run"))


@dataclass
class Inputs:
    """Everything that was found; any part may be missing."""

    directory: Path
    about: dict[str, Any] = field(default_factory=dict)
    """`evaluation.json`."""
    results: dict[str, Any] = field(default_factory=dict)
    """By section."""
    runs: list[Run] = field(default_factory=list)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Data cards by the name of the run, or of the file."""

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order in which they were given."""
        outputs, preference = mapping(self.results.get("outputs")), mapping(self.results.get("preference"))
        given = [*mapping(self.about.get("models")), *mapping(outputs.get("models")), *preference.get("models", [])]
        if not self.about.get("models"):  # otherwise other files are of an earlier evaluation, and of other prompts
            given += sorted(path.stem for path in (self.directory / "generations").glob("*.jsonl"))
        return list(dict.fromkeys(map(str, given)))

    @property
    def baseline(self) -> str | None:
        """The model that win rates are against."""
        named = mapping(self.results.get("preference")).get("baseline", self.about.get("baseline"))
        return None if named is None else str(named)


def read_inputs(directory: Path, runs: dict[str, str]) -> Inputs:
    """Look for everything a report may show.

    Args:
        directory: Of an evaluation; or one that holds runs of stages.
        runs: Run directories by name, beside those that the evaluation names.

    Raises:
        UserError: There is nothing to report, or a file is damaged.
    """
    if not directory.is_dir():
        raise UserError(f"directory: {str(directory)!r} is not a directory; give the `out` of an evaluation.")
    inputs = Inputs(directory)
    if (directory / ABOUT_FILE).is_file():
        inputs.about = mapping(_json(directory / ABOUT_FILE))
    # An earlier evaluation with other settings may have left results, which are not this one's.
    current = inputs.about.get("sections")
    for path in sorted((directory / "results").glob("*.json")):
        if isinstance(current, dict) and path.stem not in current:
            continue
        content = _json(path)
        inputs.results[path.stem] = content["result"] if isinstance(content, dict) and "result" in content else content
    for path in [directory / "trust.json", *sorted(directory.glob("trust/trust.json"))]:
        if path.is_file():
            inputs.results.setdefault("trust", _json(path))
    if not isinstance(current, dict):  # the evaluation has not finished, but some of its tasks may have
        inputs.results["task_files"] = [_json(path) for path in sorted(directory.glob("tasks/*/*.json"))]
    inputs.runs = list(_runs(inputs, runs))
    _cards(inputs)
    if not (inputs.about or any(inputs.results.values()) or inputs.models or inputs.runs or inputs.cards):
        raise UserError(
            f"directory: {str(directory)!r} holds nothing to report on: no {ABOUT_FILE}, results/, generations/ or "
            "finished runs. Give the `out` of an evaluation."
        )
    return inputs


def generations(inputs: Inputs, model: str) -> Iterator[dict[str, Any]]:
    """Rows of a model's generations, one at a time.

    Raises:
        UserError: A row is damaged.
    """
    path = inputs.directory / "generations" / f"{model}.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: broken JSON ({error}). Run the evaluation again.") from error
            if isinstance(row, dict) and "response" in row:
                yield row


def _runs(inputs: Inputs, given: dict[str, str]) -> Iterator[Run]:
    named = {n: str(mapping(m).get("source", "")) for n, m in mapping(inputs.about.get("models")).items()}
    named |= {n: str(mapping(m).get("source", "")) for n, m in mapping(inputs.about.get("rewards")).items()}
    named |= {
        path.parent.parent.name: str(path.parent.parent) for path in inputs.directory.glob(f"*/final/{STAGE_FILE}")
    }
    seen: set[Path] = set()
    for name, source in (named | given).items():
        path = Path(source).expanduser() if source else None
        path = path.parent if path is not None and path.name == "final" else path
        if path is not None and (path / "final" / STAGE_FILE).is_file() and path.resolve() not in seen:
            seen.add(path.resolve())
            yield Run(name, path, mapping(_json(path / "final" / STAGE_FILE)))
        elif name in given:
            raise UserError(f"runs.{name}: {source!r} is not a finished run of a stage (no final/{STAGE_FILE}).")


def _cards(inputs: Inputs) -> None:
    for run in inputs.runs:
        if (run.path / "final" / CARD_FILE).is_file():
            inputs.cards[run.name] = mapping(_json(run.path / "final" / CARD_FILE))
    for path in sorted(inputs.directory.glob(f"**/{CARD_FILE}")):
        if path.parent.name != "final":
            inputs.cards.setdefault("data", mapping(_json(path)))
    if isinstance(inputs.results.get("data_card"), dict):
        inputs.cards.setdefault("data", inputs.results["data_card"])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). Make it again, or take it out of the directory.") from error
