"""The command: plans, runs what is left, and sums up what is there."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.instructgpt.job import Setting, placed
from benchmarks.instructgpt.labeler_groups import write_group_rankings
from benchmarks.instructgpt.matrix import Matrix
from benchmarks.instructgpt.plan import EXPERIMENTS, Job, Places, needed
from benchmarks.instructgpt.queue import Queue
from benchmarks.instructgpt.real_data import split_real_data
from benchmarks.instructgpt.real_matrix import real_jobs
from benchmarks.instructgpt.records import read_record, write_record
from benchmarks.instructgpt.scale import SCALES
from benchmarks.instructgpt.summary import summarise
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.quickstart.run import KEEP_MEMORY

SUMMARY_EVERY_S = 30.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = "\n".join(f"  {name:10} {what}" for name, what in EXPERIMENTS.items())
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.instructgpt",
        description="The paper's claims on SmolLM2-135M, its data and its gold preference. Start the same command "
        f"again and it goes on where it was.\n\nexperiments:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--out", type=Path, required=True, help="where runs, records and the summary go")
    top.add_argument("--scale", choices=SCALES, default="small", help="tiny: a random model (default: small)")
    top.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    top.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    top.add_argument(
        "--threads", type=int, help="threads of each (default: 1 if there are more than 2, else all cores)"
    )
    top.add_argument("--only", nargs="+", choices=EXPERIMENTS, metavar="EXPERIMENT", help="some of the above")
    top.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    top.add_argument("--data", type=Path, help="directory with real data, for the experiment `real`")
    top.add_argument("--minutes", type=float, help="stop by itself after so long, and sum up")
    top.add_argument("--no-cuda-graphs", action="store_true", help="decode without recorded kernels")
    top.add_argument("--start", choices=("forkserver", "spawn"), default="forkserver", help="how processes begin")
    top.add_argument("--plan", action="store_true", help="print what would run, and end")
    top.add_argument("--summary", action="store_true", help="sum up what is there, and end")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: everything asked for is done; 1: something failed or a user's error; 3: stopped before the end.
    """
    args = parser().parse_args(arguments)
    try:
        return run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    """Plan, work, sum up."""
    places, scale = Places(args.out), SCALES[args.scale]
    matrix = Matrix(scale, places, args.device, tuple(args.seeds), not args.no_cuda_graphs)
    if "real" in (args.only or ()) and args.data is None:
        raise UserError("--only real needs --data, a directory with real data (README.md says which files).")
    wanted = frozenset(args.only or [e for e in EXPERIMENTS if e != "real" or args.data])
    every = matrix.jobs() + (real_jobs(matrix) if args.data else [])
    jobs = needed(every, wanted)
    settings = {"scale": args.scale, "device": args.device, "seeds": " ".join(map(str, args.seeds))}
    if args.plan:
        print_plan(jobs, places)
        return 0
    same_scale(places.out, args.scale)
    status = 0 if args.summary else work(args, jobs, places, settings)
    print(f"Summary: {summarise(places, jobs, settings, with_plots=True)}")
    return status


def work(args: argparse.Namespace, jobs: list[Job], places: Places, settings: dict[str, Any]) -> int:
    """Do what is left; the status for the shell."""
    threads = args.threads or (1 if args.jobs > 2 else max(1, (os.cpu_count() or 1) // args.jobs))
    # Read by libraries when they are loaded, in the processes that are about to start.
    os.environ.update(OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if args.device == "cpu":
        os.environ.update(KEEP_MEMORY)
    scale = SCALES[args.scale]
    resolve(scale.base_model)  # converted once, before several processes ask for it
    if any(job.name == "groups" for job in jobs):
        write_group_rankings(places.out / "data/groups")
    if args.data is not None:
        split_real_data(args.data, places.out / "data/real")
    setting = Setting(scale, places, args.device, threads, not args.no_cuda_graphs)
    queue = Queue(jobs, setting, args.jobs, args.start)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    last = time.perf_counter()

    def on_finish() -> None:
        nonlocal last
        if time.perf_counter() - last > SUMMARY_EVERY_S:
            summarise(places, jobs, settings, with_plots=False)
            last = time.perf_counter()

    try:
        done = queue.run(None if args.minutes is None else 60 * args.minutes, on_finish)
    except (KeyboardInterrupt, SystemExit) as stop:
        print("Stopped; the same command goes on.", flush=True)
        summarise(places, jobs, settings, with_plots=True)
        raise SystemExit(stop.code if isinstance(stop, SystemExit) else 130) from None
    return 0 if done else 1 if queue.failures else 3


def same_scale(out: Path, scale: str) -> None:
    """
    Raises:
        UserError: The directory holds records of another scale.
    """
    file = out / "scale.json"
    found = read_record(file)
    if found is None:
        write_record(file, {"scale": scale})
    elif found["scale"] != scale:
        raise UserError(f"--out: {str(out)!r} holds results of --scale {found['scale']}. Choose another directory.")


def print_plan(jobs: list[Job], places: Places) -> None:
    """A line for each job, with its command line."""
    for job in jobs:
        state = "done" if places.is_done(job) else f"after {', '.join(sorted(job.after)) or 'nothing'}"
        made = ", ".join(e.record for e in job.evaluations)
        print(f"{job.name} ({state}){f': makes {made}' if made else ''}")
        if job.train:
            print("    python -m rlhf_lightning " + shlex.join([*job.train, *placed(job, places.run(job.name))]))
