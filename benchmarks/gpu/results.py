"""Results of the GPU benchmarks: JSON with where they come from, and a table beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peer.report import machine
from rlhf_lightning.artefacts import versions
from rlhf_lightning.provenance import commit


def provenance(device: str) -> dict[str, Any]:
    """Commit, machine and versions of a run that begins now."""
    return {"commit": commit(), "machine": machine(device), "versions": versions()}


def write(result: dict[str, Any], table: str, out: Path | None) -> None:
    """Print the table; write it and the JSON if there is a file for them."""
    print(table, flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        where = result["machine"]
        head = f"Commit {result['commit']}, {where.get('gpu', where['cpu'])}, torch {result['versions']['torch']}.\n\n"
        out.with_suffix(".md").write_text(head + table + "\n")
