"""Time and peak memory of each stage against lengths, batch, K, limits, model size and processes.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --sweep batch k --out /tmp/scaling.json

Every point is a process of its own, forked from one that has the imports; models are random and written to a
temporary directory. Seconds are medians of steps (PPO: iterations), the first left out; bytes are the most that was
allocated at once during a step, above what was there before it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer.report import machine
from benchmarks.scaling.exponents import judge
from benchmarks.scaling.point import prepare_point, run_point
from benchmarks.scaling.sweeps import STAGES, SWEEPS, Sweep
from benchmarks.scaling.work import Work
from rlhf_lightning.artefacts import versions
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.provenance import commit
from rlhf_lightning.quickstart.run import KEEP_MEMORY

LIMIT_S = 300.0


class Points:
    """Measures points in processes forked from a server that has imported everything."""

    def __init__(self, root: Path, repeats: int, threads: int) -> None:
        os.environ.update(KEEP_MEMORY)  # read when the server starts, as in the quickstart
        self.root, self.repeats, self.threads = root, repeats, threads
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["benchmarks.scaling.point"])

    def measure(self, work: Work) -> dict[str, Any]:
        """Seconds (median, and all) and peak bytes of each phase."""
        out = self.root / "point.json"
        out.unlink(missing_ok=True)
        self._call(prepare_point, (work, self.root, out.with_suffix(".log")), out)
        threads = max(1, self.threads // work.processes)
        self._call(run_point, (work, self.root, out, self.repeats, threads), out)
        result = json.loads(out.read_text())
        medians = {phase: statistics.median(values) for phase, values in result["seconds"].items()}
        return {"seconds": medians, "all_seconds": result["seconds"], "bytes": result["bytes"]}

    def _call(self, target: Any, args: tuple[Any, ...], out: Path) -> None:
        process = self.context.Process(target=target, args=args)
        process.start()
        process.join(LIMIT_S)
        if process.is_alive():
            process.kill()
        if process.exitcode != 0:
            raise SystemExit(f"{args[0]} failed:\n{out.with_suffix('.log').read_text()[-3000:]}")


def run_sweep(sweep: Sweep, stage: str, points: Points) -> dict[str, Any]:
    """Measure a stage's points and judge each phase."""
    works = list(sweep.points(stage))
    measured = [points.measure(work) for work in works]
    phases: dict[str, Any] = {}
    for phase in measured[0]["seconds"]:
        seconds, peaks = ([m[kind][phase] for m in measured] for kind in ("seconds", "bytes"))
        phases[phase] = {
            "seconds": judge(sweep.values, seconds, [w.operations(phase) for w in works], "seconds"),
            "bytes": judge(sweep.values, peaks, [w.held_bytes(phase) for w in works], "bytes"),
        }
    return {"values": sweep.values, "points": measured, "phases": phases}


def markdown(result: dict[str, Any]) -> str:
    """One table: a line for each sweep, stage, phase and kind."""
    rows = []
    for name, sweep in result["sweeps"].items():
        for stage, run in sweep["stages"].items():
            for phase, kinds in run["phases"].items():
                for kind, law in kinds.items():
                    unit, scale = ("s", 1.0) if kind == "seconds" else ("MiB", 2.0**20)
                    first, last = (run["points"][i][kind][phase] / scale for i in (0, -1))
                    span = f"{first:.3g} … {last:.3g} {unit}"
                    fitted = f"{law['exponent']:.2f} ± {law['residual']:.0%}"
                    values = f"{run['values'][0]} … {run['values'][-1]}"
                    what = "time" if kind == "seconds" else "memory"
                    rows.append(
                        [name, values, stage, phase, what, span, fitted, f"{law['theory']:.2f}", law["verdict"]]
                    )
    columns = ["sweep", "values", "stage", "phase", "of", "first … last", "exponent ± residual", "theory", "verdict"]
    theory = "\n".join(f"- {name}: {sweep['theory']}" for name, sweep in result["sweeps"].items())
    return f"""# How time and memory grow

Commit {result["commit"]}, {result["machine"]}, {result["versions"]}. {result["wall_s"] / 60:.1f} minutes.

Exponents are least-squares lines through logarithms over the upper half of each range; theory's are fitted in the same
way to a count of operations, or of the bytes that have to be held, at the same points. Time is the median of
{result["repeats"]} steps (PPO: iterations); memory is what a step allocates at most above what was there before it.
An exponent below theory's is a cost that does not grow with the work, and no defect.

{theory}

{markdown_table(columns, rows)}
"""


def main() -> None:
    """Run the sweeps and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", nargs="+", default=list(SWEEPS), choices=list(SWEEPS))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scaling/results.json"))
    args = parser.parse_args()
    if torch.cuda.device_count() == 1:  # two processes of one card would measure how they disturb each other
        args.sweep = [name for name in args.sweep if name != "processes"]
    start, sweeps = time.monotonic(), {}
    where = machine("cuda" if torch.cuda.is_available() else "cpu")
    about = {
        "commit": commit(),
        "machine": f"{where.get('gpu', where['cpu'])}, {args.threads} threads",
        "versions": versions(),
        "repeats": args.repeats,
    }
    with tempfile.TemporaryDirectory() as directory:
        points = Points(Path(directory), args.repeats, args.threads)
        for name in args.sweep:
            sweep = SWEEPS[name]
            stages = [s for s in sweep.stages if s in args.stages]
            runs = {stage: run_sweep(sweep, stage, points) for stage in stages}
            sweeps[name] = {"theory": sweep.theory, "fixed": sweep.fixed, "stages": runs}
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
            about["wall_s"] = time.monotonic() - start
            text = markdown(about | {"sweeps": sweeps})
            args.out.write_text(json.dumps(about | {"sweeps": sweeps}, indent=1) + "\n")
            args.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
