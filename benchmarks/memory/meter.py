"""Peak memory of each phase of a run, and the tensors that are alive when it ends."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory.live import live_bytes
from benchmarks.run_phases import BETWEEN, RunPhases

MIB = 2**20
INTERVAL_S = 0.005
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Held:
    """Bytes that a process holds."""

    all: int
    """Resident: with files that are mapped, such as weights while they are loaded."""
    own: int
    """Resident without files; the system cannot take these back."""

    def or_more(self, other: Held) -> Held:
        """The larger of each."""
        return Held(max(self.all, other.all), max(self.own, other.own))


def held_now() -> Held:
    """What this process holds."""
    resident, shared = (int(n) * PAGE for n in Path("/proc/self/statm").read_text().split()[1:3])
    return Held(resident, resident - shared)


class ResidentSampler:
    """Reads the resident size every 5 ms in a thread, and keeps the largest since it was last asked.

    A peak shorter than that can be missed; of a phase of a second, none that matters is.
    """

    def __init__(self) -> None:
        self._peak = Held(0, 0)
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._look()
            time.sleep(INTERVAL_S)

    def _look(self) -> None:
        with self._lock:
            self._peak = self._peak.or_more(held_now())

    def restart(self) -> Held:
        """The largest since the last call."""
        self._look()
        with self._lock:
            peak, self._peak = self._peak, Held(0, 0)
        return peak


class PeakMemory(RunPhases):
    """Writes `{"phases": {name: {peak_mib, own_mib, live_mib, visits}}, ...}` as JSON when the run has ended.

    On a GPU the peak is what torch has allocated there, on a CPU the process's resident size.
    """

    def __init__(self, out: str, live: bool = True) -> None:
        """
        Args:
            out: The JSON file.
            live: Also count the tensors alive after each phase, largest over its visits.
        """
        self.out, self.live = Path(out), live
        self.phases: dict[str, dict[str, float]] = {}
        self.device = torch.device("cpu")
        self.start_mib = held_now().all / MIB
        self._sampler: ResidentSampler | None = ResidentSampler()
        super().__init__()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.device = trainer.strategy.root_device  # the module is back on the CPU when `on_fit_end` comes
        if self.device.type == "cuda":
            self.start_mib, self._sampler = 0.0, None
        super().setup(trainer, pl_module, stage)

    def begin(self, phase: str) -> None:
        self._restart()

    def end(self, phase: str) -> None:
        peak = self._restart()
        if phase == BETWEEN:
            return
        record = self.phases.setdefault(phase, {"peak_mib": 0.0, "own_mib": 0.0, "live_mib": 0.0, "visits": 0})
        record["visits"] += 1
        record["peak_mib"] = max(record["peak_mib"], round(peak.all / MIB, 1))
        record["own_mib"] = max(record["own_mib"], round(peak.own / MIB, 1))
        if self.live:
            record["live_mib"] = max(record["live_mib"], round(live_bytes() / MIB, 2))

    def _restart(self) -> Held:
        if self._sampler:
            return self._sampler.restart()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return Held(peak, peak)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        result = {"start_mib": round(self.start_mib, 1), "device": str(self.device), "phases": self.phases}
        self.out.write_text(json.dumps(result))
