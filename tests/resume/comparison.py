"""Whether two runs ended the same: every weight bit for bit, every scalar that was logged, every metric recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

MEASURED = ("time/",)
"""Seconds differ between any two runs."""
TABLES = ("val_accuracy.json", "val_rankings.csv")
"""What a reward model's validation writes beside its scalars."""


def scalars(run: Path) -> dict[tuple[str, int], float]:
    """Every scalar by (tag, step). What a killed run logged after its checkpoint is logged again, over it."""
    found = {}
    for file in sorted((run / "tensorboard").glob("events*"), key=lambda f: f.stat().st_mtime_ns):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" and not value.tag.startswith(MEASURED):
                    found[value.tag, event.step] = float(make_ndarray(value.tensor))
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the artefact, by file and name."""
    files = sorted((run / "final").glob("*.safetensors"))
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def differences(run: Path, other: Path) -> list[str]:
    """What differs between two finished runs, in words; empty when they are equal."""
    lines = []
    one, two = weights(run), weights(other)
    lines += [f"tensor {n} on one side only" for n in one.keys() ^ two.keys()]
    lines += [f"tensor {n} differs" for n in one.keys() & two.keys() if not torch.equal(one[n], two[n])]
    a, b = scalars(run), scalars(other)
    lines += [f"scalar {key} on one side only" for key in sorted(a.keys() ^ b.keys())]
    lines += [f"scalar {key}: {a[key]} and {b[key]}" for key in sorted(a.keys() & b.keys()) if a[key] != b[key]]
    tables = [[_table(r / t) for t in TABLES] for r in (run, other)]
    lines += [f"{t} differs" for t, x, y in zip(TABLES, *tables, strict=True) if x != y]
    recorded = [_recorded(r) for r in (run, other)]
    if recorded[0] != recorded[1]:
        lines.append(f"stage.json: metrics {recorded[0]} and {recorded[1]}")
    return lines


def _table(path: Path) -> str | None:
    """A table's text; of a file of rows that it names only the name, because folds have files of their own."""
    return re.sub(r"^/.*/", "", path.read_text(), flags=re.MULTILINE) if path.exists() else None


def _recorded(run: Path) -> dict[str, float]:
    metrics = json.loads((run / "final" / "stage.json").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if not name.startswith(MEASURED)}
