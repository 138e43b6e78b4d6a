"""What the process of a job does: fit through the project's command line, then the evaluations; skips what is there."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.instructgpt.plan import Evaluation, Job, Places
from benchmarks.instructgpt.records import environment, read_record, write_record
from benchmarks.instructgpt.scale import Scale

BAD_FORK = 75
"""Exit status of a process that was forked from one that had used the GPU."""


@dataclass(frozen=True)
class Setting:
    """What every job of a command has in common."""

    scale: Scale
    places: Places
    device: str
    threads: int
    cuda_graphs: bool = True


def run_job(job: Job, setting: Setting, parent: int = 0) -> None:
    """Do what is left of a job, its output in a log file; ends the process with a status where it fails.

    Args:
        job: What to do.
        setting: Scale, places, device.
        parent: Process without which this one should not go on (0: none); a killed command leaves no trainings behind.
    """
    log = setting.places.log(job.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if parent:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    if setting.device == "cuda" and torch.cuda._is_in_bad_fork():
        sys.exit(BAD_FORK)
    torch.set_num_threads(setting.threads)
    sys.argv = sys.argv[:1]  # of the command: the stage's are given, and Lightning warns of two
    work(job, setting)


def work(job: Job, setting: Setting) -> None:
    """The same in this process."""
    if job.train:
        fit(job, setting)
    for evaluation in job.evaluations:
        if not setting.places.record(evaluation.record).is_file():
            evaluate(evaluation, job, setting)


def fit(job: Job, setting: Setting) -> None:
    """Train, or go on training, and write down what it took.

    Raises:
        SystemExit: The stage failed or was stopped; its message is in the log.
    """
    from rlhf_lightning.cli import main

    places = setting.places
    if places.training(job.name).is_file():
        return
    run = places.run(job.name)
    start = time.perf_counter()
    status = main([*job.train, *placed(job, run)])
    seconds = _attempts(run, time.perf_counter() - start)
    if status:
        note_divergence(job, places)
        sys.exit(status)
    places.diverged(job.name).unlink(missing_ok=True)
    write_record(places.training(job.name), training_record(job, setting, run, seconds))
    _forget()


def note_divergence(job: Job, places: Places) -> None:
    """Keep what a run says that gave up because it diverged: without a record it would count as not done yet."""
    log = places.log(job.name)
    said = log.read_text(errors="replace").splitlines() if log.is_file() else []
    if message := next((line for line in reversed(said[-20:]) if "no finite gradient" in line), None):
        record = {"seed": job.seed, "message": message.removeprefix("error: ")[:200]}
        write_record(places.diverged(job.name), record)


def placed(job: Job, run: Path) -> list[str]:
    """Arguments that say where a job's run is, and that it goes on where it was."""
    if job.train[0] == "crossvalidate":
        return ["--out", str(run)]
    return ["--trainer.default_root_dir", str(run), "--ckpt_path", "last"]


def training_record(job: Job, setting: Setting, run: Path, seconds: list[float]) -> dict[str, Any]:
    """Seconds, metrics and curves of a finished run."""
    from benchmarks.instructgpt.curves import trajectory

    if job.train[0] == "crossvalidate":
        result = json.loads((run / "crossvalidation.json").read_text())
        head = {"job": job.name, "seed": job.seed, "seconds": round(sum(seconds), 1), "result": result}
        return head | environment(setting.device)
    info = json.loads((run / "final" / "stage.json").read_text())
    metrics = {k: v for k, v in info["metrics"].items() if isinstance(v, float) and abs(v) < float("inf")}
    record = {"job": job.name, "seed": job.seed, "stage": info["stage"], "seconds": round(sum(seconds), 1)}
    record |= {"attempts": len(seconds), "metrics": metrics, "curves": trajectory(run), "facts": dict(job.facts)}
    return record | environment(setting.device)


def evaluate(evaluation: Evaluation, job: Job, setting: Setting) -> None:
    """Make one record."""
    from benchmarks.instructgpt.judging import Judge

    start = time.perf_counter()
    judge = Judge(setting.scale, setting.places, setting.device, setting.cuda_graphs)
    result: dict[str, Any] = getattr(judge, evaluation.kind)(evaluation)
    head = {"seconds": round(time.perf_counter() - start, 1), "facts": dict(job.facts), **asdict(evaluation)}
    write_record(setting.places.record(evaluation.record), head | environment(setting.device) | {"result": result})
    _forget()


def _attempts(run: Path, seconds: float) -> list[float]:
    """Seconds of every attempt at a run, this one included; of one that was killed nothing is known."""
    found = read_record(run / "attempts.json") or {"seconds": []}
    found["seconds"].append(round(seconds, 1))
    write_record(run / "attempts.json", found)
    return list(found["seconds"])


def _forget() -> None:
    """Let go of a model before the next is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _end_with(parent: int) -> None:
    """Stop at the next step when the command is gone, as a user's Ctrl-C would."""
    while _alive(parent):
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60.0)
    os._exit(1)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
