"""Runs of both sides in turn, A B A B, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peer.starts import with_checkout
from rlhf_lightning.memory import FEW_PRODUCTS
from rlhf_lightning.quickstart import run as quickstart

SIDES = ("ours", "trl")
KEEP_MEMORY = quickstart.KEEP_MEMORY | FEW_PRODUCTS
"""What the quickstart gives its stages and the command line itself; both sides get it."""

Task = dict[str, Any]


def run_side(side: str, stage: str, task: Task, peer_python: str, environment: dict[str, str]) -> dict[str, Any]:
    """One run of one side; what its meter wrote.

    Raises:
        SystemExit: It failed; the end of its output is on the screen.
    """
    python = sys.executable if side == "ours" else peer_python
    with tempfile.TemporaryDirectory() as directory:
        file, out = Path(directory) / "task.json", Path(directory) / "out.json"
        file.write_text(json.dumps(task | {"out": str(out)}))
        command = [python, "-m", f"benchmarks.peer.{side}_{stage}", str(file)]
        offline = {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_CACHE": directory} | with_checkout()
        start = time.perf_counter()
        done = subprocess.run(
            command,
            env=os.environ | offline | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode or not out.is_file():
            sys.exit(f"error: {' '.join(command[1:3])} ended with {done.returncode}:\n{done.stdout[-4000:]}")
        result: dict[str, Any] = json.loads(out.read_text())
    return result | {"process_s": time.perf_counter() - start}


def in_turn(
    stage: str, tasks: dict[str, Task], repetitions: int, peer_python: str, environments: dict[str, dict[str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """Runs of each side, in the order in which they were made: ours, the peer's, ours, the peer's, ..."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(repetitions):
        for side in SIDES:
            run = run_side(side, stage, tasks[side], peer_python, environments[side])
            runs[side].append(run)
            seconds = " ".join(f"{s['seconds']:.2f}" for s in run["steps"])
            print(
                f"  {number + 1}/{repetitions} {side}: steps of {seconds} s, peak {run['peak_mib']:.0f} MiB",
                flush=True,
            )
    return runs
