"""Page faults and time of SFT steps under different settings of the allocator, each in a process of its own.

On virtual machines fresh memory is expensive: glibc hands large blocks back to the system, and the next step is given
them anew, page by page. The environment has to be set before a process starts, so every setting is a process.

    python -m benchmarks.memory.page_faults
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L

from benchmarks.peer.report import machine
from rlhf_lightning.artefacts import versions
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.provenance import commit
from rlhf_lightning.quickstart.run import KEEP_MEMORY

TOP_PAD = {"MALLOC_TOP_PAD_": str(256 * 2**20)}
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
SETTINGS: dict[str, dict[str, str]] = {
    "glibc defaults": {},
    "the quickstart's": KEEP_MEMORY,
    "the quickstart's, TOP_PAD": KEEP_MEMORY | TOP_PAD,
    "huge pages": HUGE_PAGES,
    "all": KEEP_MEMORY | TOP_PAD | HUGE_PAGES,
}
CONFIG = "configs/quickstart/sft.yaml"


class PageFaults(L.Callback):
    """Writes minor page faults and seconds of every step as JSON when the run has ended."""

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        self.faults: list[int] = []
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._before[1])
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self._before[0])

    def on_fit_end(self, *_: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.out.write_text(json.dumps({"faults": self.faults, "seconds": self.seconds, "peak_mib": peak}))


def measure(setting: dict[str, str], steps: int, model: str) -> dict[str, Any]:
    """Run SFT under a setting. The first step is left out of the medians: memory has to be had once."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "faults.json"
        command = [sys.executable, "-m", "rlhf_lightning", "fit", "--config", CONFIG, "--data.init_args.val", "null"]
        command += ["--trainer.default_root_dir", f"{directory}/run", "--trainer.max_steps", str(steps)]
        command += ["--model.init_args.base_model", model, "--trainer.enable_progress_bar", "false"]
        command += ["--trainer.callbacks+=benchmarks.memory.page_faults.PageFaults", f"--trainer.callbacks.out={out}"]
        bare = {k: v for k, v in os.environ.items() if k not in KEEP_MEMORY | TOP_PAD | HUGE_PAGES}
        done = subprocess.run(command, capture_output=True, text=True, env=bare | setting)
        if done.returncode:
            raise SystemExit(f"{setting}: {done.stderr[-2000:]}")
        run = json.loads(out.read_text())
    rest = slice(1, None)
    return {
        "environment": setting,
        "faults_per_step": statistics.median(run["faults"][rest]),
        "seconds_per_step": statistics.median(run["seconds"][rest]),
        "spread_s": [min(run["seconds"][rest]), max(run["seconds"][rest])],
        "first_step": {"faults": run["faults"][0], "seconds": run["seconds"][0]},
        "peak_mib": run["peak_mib"],
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = []
    slowest = result["settings"]["glibc defaults"]["seconds_per_step"]
    for name, run in result["settings"].items():
        low, high = run["spread_s"]
        seconds = f"{run['seconds_per_step']:.2f} [{low:.2f}, {high:.2f}]"
        speedup = f"{slowest / run['seconds_per_step']:.2f}"
        rows.append([name, f"{run['faults_per_step']:,.0f}", seconds, speedup, f"{run['peak_mib']:.0f}"])
    columns = ["allocator", "minor page faults a step", "s a step [min, max]", "times the defaults' speed", "peak MiB"]
    return f"""# Page faults of SFT steps

Commit {result["commit"]}, {result["machine"]}, {result["model"]}, quickstart data and settings. Medians of
{result["steps"] - 1} steps (the first is left out) of each of {result["rounds"]} runs, the settings in turn.

{markdown_table(columns, rows)}
"""


def merge(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Several runs of one setting as one: medians of the runs' medians."""
    merged = dict(rounds[0])
    for key in ("faults_per_step", "seconds_per_step", "peak_mib"):
        merged[key] = statistics.median(run[key] for run in rounds)
    merged["spread_s"] = [min(r["spread_s"][0] for r in rounds), max(r["spread_s"][1] for r in rounds)]
    return merged


def main() -> None:
    """Measure all settings, in turn, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each setting, A B A B")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/memory/page_faults.json"))
    args = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    for _ in range(args.rounds):
        for name, setting in SETTINGS.items():
            runs[name].append(measure(setting, args.steps, args.model))
            print(name, json.dumps(runs[name][-1]), flush=True)
    result = {
        "commit": commit(),
        "machine": f"{(where := machine('cpu'))['cpu']}, {platform.release()}, {where['threads']} threads",
        "versions": versions(),
        "model": args.model,
        "steps": args.steps,
        "rounds": args.rounds,
        "settings": {name: merge(rounds) for name, rounds in runs.items()},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    args.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
