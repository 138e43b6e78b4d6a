"""What the numbers rest on: the data cards, samples side by side, and how to make it all again."""

from __future__ import annotations

import json
import shlex
from typing import Any

from rlhf_lightning.data.card.tables import Table
from rlhf_lightning.data.card.tables import tables as card_tables
from rlhf_lightning.evaluation.report.blocks import Code, Folded, Samples, Section, Text, Warnings, mapping, sequence
from rlhf_lightning.evaluation.report.inputs import Inputs, generations

_LONGEST = 4_000
"""Characters of a sample that are shown."""


def data(inputs: Inputs) -> list[Section]:
    """The card of every stage's data."""
    sections = []
    for name, card in inputs.cards.items():
        stage = next((run.stage for run in inputs.runs if run.name == name), "")
        suffix = f"{name} ({stage})" if stage and stage != name else name
        section = Section(f"data-{name}", f"Data card: {suffix}")
        if warnings := [str(w).removeprefix("data.init_args.") for w in sequence(card.get("warnings"))]:
            section.blocks.append(Warnings(warnings))
        found = card_tables(card) if mapping(card.get("splits")) else []
        section.blocks += found[:1]
        if found[1:]:
            titles = ", ".join(table.title.lower() for table in found[1:])
            section.blocks.append(Folded(titles.capitalize(), found[1:]))
        if section.blocks:
            sections.append(section)
    return sections


def samples(inputs: Inputs, most: int) -> Section | None:
    """Responses to the same prompts side by side.

    Args:
        inputs: What was found.
        most: Prompts, evenly spaced, so that nobody has picked them.
    """
    models = [m for m in inputs.models if any(True for _ in generations(inputs, m))]
    if not models:
        return None
    prompts = dict.fromkeys(str(row.get("id", row.get("prompt"))) for m in models for row in generations(inputs, m))
    ids = list(prompts)
    picked = {ids[i * len(ids) // min(most, len(ids))]: i for i in range(min(most, len(ids)))}
    rows: dict[str, dict[str, Any]] = {}
    for model in models:
        for row in generations(inputs, model):
            key = str(row.get("id", row.get("prompt")))
            if key in picked and row.get("sample", 0) == 0:
                shown = rows.setdefault(key, {"id": key, "prompt": _cut(row.get("prompt")), "responses": {}})
                shown["responses"][model] = {"text": _cut(row.get("response")), "about": _about(row)}
    ordered = [rows[key] for key in picked if key in rows]
    section = Section("samples", "Samples side by side")
    which = "all" if len(ordered) == len(ids) else f"{len(ordered)} of {len(ids)}, evenly spaced"
    section.blocks.append(Text(f"Prompts: {which}. The first response of each model; nobody has picked them."))
    section.blocks.append(Samples(models, ordered, len(ids)))
    return section


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " […]"


def _about(row: dict[str, Any]) -> str:
    parts = []
    for name, score in mapping(row.get("scores")).items():
        if isinstance(score, int | float):
            parts.append(f"{name} {score:.2f}")
    if isinstance(row.get("gold"), int | float):
        parts.append(f"gold {row['gold']:.2f}")
    if isinstance(row.get("kl"), int | float):
        parts.append(f"KL {row['kl']:.2f}")
    if row.get("tokens"):
        parts.append(f"{row['tokens']} tokens")
    if row.get("ended") is False:
        parts.append("cut\u00a0off")
    return " · ".join(parts).replace("-", "−")


def reproduce(inputs: Inputs) -> Section | None:
    """Commands, versions, seeds and fingerprints."""
    section = Section("reproduce", "Make it again")
    commands = [
        f"python -m rlhf_lightning fit --config {shlex.quote(str(run.path / 'config.yaml'))} --overwrite true"
        for run in inputs.runs
        if (run.path / "config.yaml").is_file()
    ]
    if command := sequence(inputs.about.get("command")):
        commands.append(shlex.join(map(str, command)))
    if commands:
        section.blocks.append(Code("Commands", "\n".join(commands)))
    known = {"commit": inputs.about.get("commit"), "device": inputs.about.get("device")}
    known |= {"python": inputs.about.get("python"), "seconds": inputs.about.get("wall_s")}
    known |= mapping(inputs.about.get("versions")) or next((mapping(r.info.get("versions")) for r in inputs.runs), {})
    if prompts := mapping(inputs.about.get("prompts")):
        known |= {"prompts": prompts.get("files"), "prompts' fingerprint": str(prompts.get("fingerprint", ""))[:16]}
    rows: list[list[Any]] = [[k, _plain(v)] for k, v in known.items() if v is not None]
    if rows:
        section.blocks.append(Table("Versions", ["", "value"], rows))
    runs: list[list[Any]] = [
        [run.name, run.stage, str(run.path), run.info.get("base_name"), run.info.get("seed"), _files(run.info)]
        for run in inputs.runs
    ]
    if runs:
        section.blocks.append(Table("Runs", ["name", "stage", "directory", "base model", "seed", "data"], runs))
    if settings := mapping(inputs.about.get("settings")):
        section.blocks.append(Code("Settings of the evaluation", json.dumps(settings, indent=2, ensure_ascii=False)))
    return section if section.blocks else None


def _files(info: dict[str, Any]) -> str:
    parts = []
    for split, about in mapping(info.get("data")).items():
        files = ", ".join(map(str, sequence(mapping(about).get("files"))))
        parts.append(f"{split}: {files} ({str(mapping(about).get('fingerprint', ''))[:12]})")
    return "; ".join(parts)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
