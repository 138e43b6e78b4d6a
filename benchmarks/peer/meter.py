"""Seconds, losses and peak memory of a run. Both sides use it, so it imports neither this project nor the peer."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch


def read_task() -> dict[str, Any]:
    """The task of this process: the JSON file named on its command line."""
    task: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    if task["matmul_precision"]:
        torch.set_float32_matmul_precision(task["matmul_precision"])
    return task


class Meter:
    """Times steps from end to end, so that whatever happens between two of them counts too."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.steps: list[dict[str, Any]] = []
        self.notes: dict[str, Any] = {}
        self._last = 0.0
        self.peak_mib = 0.0

    def start(self) -> None:
        """The first step begins."""
        self._last = self.now()

    def now(self) -> float:
        """Seconds; on a GPU after everything that was asked of it is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def end_step(self, **facts: Any) -> None:
        """A step has ended and the next one begins."""
        now = self.now()
        self.steps.append({"seconds": now - self._last, **facts})
        self.peak_mib = self._peak()  # here and not at exit: writing the artefact is no part of the work
        self._last = self.now()

    def _peak(self) -> float:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

    def write(self, path: str) -> None:
        """Write everything as JSON."""
        result = {"steps": self.steps, "peak_mib": self.peak_mib, "threads": torch.get_num_threads()}
        Path(path).write_text(json.dumps(result | self.notes) + "\n")
