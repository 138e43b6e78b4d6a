"""Keeps so many jobs going, the most wanted of those whose inputs exist; a killed command loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.instructgpt.job import BAD_FORK, Setting, run_job
from benchmarks.instructgpt.plan import Job
from benchmarks.instructgpt.preload import FLAG

PRELOAD = "benchmarks.instructgpt.preload"
ATTEMPTS = 2
"""A job that fails is tried once more, when nothing else is left: memory may have been short."""


class Queue:
    """The jobs of a command."""

    def __init__(
        self,
        jobs: Sequence[Job],
        setting: Setting,
        slots: int,
        start: str = "forkserver",
        target: Callable[[Job, Setting, int], None] = run_job,
    ) -> None:
        """
        Args:
            jobs: In the order in which they are wanted.
            setting: What they have in common.
            slots: How many run at a time.
            start: "forkserver" (imports happen once) or "spawn".
            target: What a process does, with a job, what all have in common, and the process it should not outlive.
        """
        self.jobs, self.setting, self.slots, self.target = list(jobs), setting, slots, target
        self.context: BaseContext = multiprocessing.get_context(start)
        if start == "forkserver":
            os.environ[FLAG] = "1"
            self.context.set_forkserver_preload([PRELOAD])
        self.running: dict[str, tuple[BaseProcess, float]] = {}
        self.failures: dict[str, int] = {}
        self._done: set[str] = set()
        self.began = time.perf_counter()

    def run(self, deadline: float | None, on_finish: Callable[[], None]) -> bool:
        """Work until nothing is left that could be done.

        Args:
            deadline: Seconds after which it ends; what is running is stopped and can go on later.
            on_finish: Called after each finished job.

        Returns:
            Whether everything is done.
        """
        try:
            while self.running or self.next_job() is not None:
                if deadline is not None and time.perf_counter() - self.began > deadline:
                    self.say("out of time; what is running stops, and the same command goes on with it")
                    break
                while len(self.running) < self.slots and (job := self.next_job()) is not None:
                    self.begin(job)
                ended = [name for name in list(self.running) if self.reap(name)]
                if ended:
                    on_finish()
                time.sleep(0.05)
        finally:
            self.stop()
        return len(self.done()) == len(self.jobs)

    def next_job(self) -> Job | None:
        """The most wanted job that can begin now."""
        done, places = self.done(), self.setting.places
        # What waits for an artefact need not wait for what is still being said about it.
        there = done | {job.name for job in self.jobs if job.train and places.training(job.name).is_file()}
        ready = [
            job
            for job in self.jobs
            if job.name not in done
            and job.name not in self.running
            and job.after <= there
            and self.failures.get(job.name, 0) < ATTEMPTS
        ]
        return min(ready, key=lambda job: self.failures.get(job.name, 0)) if ready else None

    def done(self) -> set[str]:
        """Names of the jobs that are finished."""
        is_done = self.setting.places.is_done
        self._done |= {job.name for job in self.jobs if job.name not in self._done and is_done(job)}
        return self._done

    def begin(self, job: Job) -> None:
        """Start a job's process."""
        process = self.context.Process(target=self.target, args=(job, self.setting, os.getpid()), name=job.name)  # type: ignore[attr-defined]
        process.start()
        self.running[job.name] = process, time.perf_counter()
        self.say(f"{job.name} starts")

    def reap(self, name: str) -> bool:
        """Whether a job's process has ended; says how."""
        process, started = self.running[name]
        if process.is_alive():
            return False
        process.join()
        del self.running[name]
        seconds = time.perf_counter() - started
        if process.exitcode == BAD_FORK:
            self.context = multiprocessing.get_context("spawn")
            self.say(f"{name}: the device cannot be used in forked processes; from now on each starts by itself")
        elif process.exitcode:
            self.failures[name] = self.failures.get(name, 0) + 1
            log = self.setting.places.log(name)
            self.say(f"{name} FAILED after {seconds:.0f} s (status {process.exitcode}): {last_line(log)} [{log}]")
        else:
            self.say(f"{name} done in {seconds:.0f} s")
        return True

    def stop(self, patience_s: float = 20.0) -> None:
        """End what is running: trainings stop after their step, with a checkpoint."""
        for process, _ in self.running.values():
            process.terminate()
        until = time.perf_counter() + patience_s
        for process, _ in self.running.values():
            process.join(max(0.0, until - time.perf_counter()))
            if process.is_alive():
                process.kill()
                process.join()
        self.running.clear()

    def say(self, text: str) -> None:
        """A line of progress."""
        done = len(self.done())
        elapsed = time.perf_counter() - self.began
        print(f"[{elapsed:6.0f} s] {done}/{len(self.jobs)} done, {len(self.running)} running: {text}", flush=True)


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1][:200] if lines else "empty log"
