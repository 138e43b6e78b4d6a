"""Jobs: what is trained, what is evaluated afterwards, and what has to be there before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["policy", "reward", "selection", "real", "real_reward"]

EXPERIMENTS = {
    "ordering": "base < SFT < PPO, and PPO-ptx beside PPO",
    "tax": "the alignment tax at four γ",
    "beta": "β from 0 to 2 with and without pretraining text; over-optimisation",
    "recipe": "γ = 27.8 with the paper's recipe",
    "groups": "reward models on labeler groups, 5 folds",
    "selection": "SFT checkpoints by RM score and by validation loss",
    "real": "once with real data (needs --data)",
}
"""Names for `--only`."""


@dataclass(frozen=True)
class Evaluation:
    """One record to be made."""

    record: str
    """Its name, `evaluations/<record>.json`."""
    kind: Kind
    model: str
    """What is evaluated: the name of a job that trained it, or of a causal LM."""
    seed: int
    reference: str = ""
    """Job of the SFT model that KL is measured to."""
    reward: str = ""
    """Job of the reward model that scores."""


@dataclass(frozen=True)
class Job:
    """Work of one process."""

    name: str
    priority: int
    """Smaller ones first."""
    experiments: frozenset[str]
    """Which need it."""
    seed: int
    train: tuple[str, ...] = ()
    """Arguments of `python -m rlhf_lightning`, run directory and resuming left out; empty where nothing is trained."""
    after: frozenset[str] = frozenset()
    """Jobs whose artefacts it reads."""
    evaluations: tuple[Evaluation, ...] = field(default=())
    facts: tuple[tuple[str, float], ...] = ()
    """What the record should say of it: γ, β, ..."""


@dataclass(frozen=True)
class Places:
    """Where things are under `--out`."""

    out: Path

    def run(self, job: str) -> Path:
        """Run directory of a job that trains."""
        return self.out / "runs" / job

    def record(self, name: str) -> Path:
        return self.out / "evaluations" / f"{name}.json"

    def training(self, job: str) -> Path:
        """Record of a training: its seconds, metrics and curves."""
        return self.out / "training" / f"{job}.json"

    def diverged(self, job: str) -> Path:
        """Record of a training that gave up for want of a finite gradient."""
        return self.out / "diverged" / f"{job}.json"

    def log(self, job: str) -> Path:
        return self.out / "logs" / f"{job}.log"

    def is_done(self, job: Job) -> bool:
        """Everything of a job is on disk."""
        trained = not job.train or self.training(job.name).is_file()
        return trained and all(self.record(e.record).is_file() for e in job.evaluations)


def needed(jobs: list[Job], wanted: frozenset[str]) -> list[Job]:
    """The jobs of some experiments and everything these wait for, by priority."""
    by_name = {job.name: job for job in jobs}
    found: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.name not in found:
            found[job.name] = job
            for name in job.after:
                add(by_name[name])

    for job in jobs:
        if job.experiments & wanted:
            add(job)
    return sorted(found.values(), key=lambda job: (job.priority, job.name))
