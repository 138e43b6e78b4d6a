"""Results as JSON files that appear whole or not at all, each with what it takes to repeat it."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from rlhf_lightning.whole_files import write_whole


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write JSON with sorted keys: a kill leaves the old file or the new one."""
    write_whole(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return record


def environment(device: str) -> dict[str, Any]:
    """Commit, versions and machine of this process."""
    import torch

    from rlhf_lightning.artefacts import versions
    from rlhf_lightning.provenance import commit

    name = torch.cuda.get_device_name(0) if device == "cuda" else (platform.processor() or platform.machine())
    return {
        "commit": commit(),
        "versions": versions(),
        "machine": {
            "device": name,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.platform(),
        },
    }


def rounded(values: list[float], digits: int = 5) -> list[float | None]:
    """Numbers as they are written down; what is not finite becomes null."""
    return [round(v, digits) if abs(v) < float("inf") else None for v in values]
