"""The records of a command as arrays, and intervals over prompts that are shared by all models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.instructgpt.records import read_record
from rlhf_lightning.evaluation.intervals import Interval

Array = NDArray[np.float64]
Record = dict[str, Any]
RESAMPLES = 4000


@dataclass(frozen=True)
class Evidence:
    """Evaluations and trainings by name."""

    evaluations: dict[str, Record]
    trainings: dict[str, Record]
    diverged: dict[str, Record] = field(default_factory=dict)
    """Trainings that gave up for want of a finite gradient."""

    @classmethod
    def read(cls, out: Path) -> Evidence:
        """Everything that is finished."""
        evaluations, trainings, diverged = (
            {file.stem: record for file in sorted((out / kind).glob("[!.]*.json")) if (record := read_record(file))}
            for kind in ("evaluations", "training", "diverged")
        )
        return cls(evaluations, trainings, diverged)

    def policy(self, model: str, seed: int) -> Record | None:
        """Evaluation of "base", "sft", or a run's name without its seed."""
        record = self.evaluations.get(f"{model}-s{seed}")
        return None if record is None else dict(record["result"])

    def seeds(self, *models: str) -> list[int]:
        """Seeds of which all these models are evaluated."""
        every = {int(name.rpartition("-s")[2]) for name in self.evaluations if name.rpartition("-s")[2].isdigit()}
        return [s for s in sorted(every) if all(self.policy(m, s) is not None for m in models)]

    def table(self, model: str, seeds: list[int], measure: Callable[[Record], Array]) -> Array:
        """A measure of a model, [seeds, units]."""
        found = [self.policy(model, seed) for seed in seeds]
        return np.stack([measure(record) for record in found if record is not None])

    def runs(self) -> list[tuple[float, float, str]]:
        """γ, β and name without seed of every policy that is evaluated; β's budget run and the paper's left out."""
        facts = {
            (r["facts"]["gamma"], r["facts"]["beta"], name.rpartition("-s")[0])
            for name, r in self.evaluations.items()
            if name.startswith("ppo-g") and "gamma" in r["facts"]
        }
        return sorted(facts)


# -- measures of one record, one number per unit ------------------------------------------------------------


def gold(record: Record, splits: tuple[str, ...] = ("seen", "unseen")) -> Array:
    """Gold of every prompt, mean over its samples."""
    return np.concatenate([np.asarray(record[split]["gold"], float).mean(0) for split in splits])


def wins(record: Record, other: Record, splits: tuple[str, ...] = ("seen", "unseen")) -> Array:
    """How often the first has the higher gold on a prompt, ties counting half."""
    parts = []
    for split in splits:
        a, b = np.asarray(record[split]["gold"], float), np.asarray(other[split]["gold"], float)
        parts.append(((a > b) + 0.5 * (a == b)).mean(0))
    return np.concatenate(parts)


def seen(name: str) -> Callable[[Record], Array]:
    """`score`, `kl`, `tokens` or `ended` on prompts of seen families."""
    return lambda record: np.asarray(record["seen"][name], float).mean(0)


def text_nll(record: Record) -> Array:
    """Nats of every document."""
    return np.asarray(record["text"]["nll"], float)


def exact(record: Record) -> Array:
    """1 or 0 of every item."""
    return np.asarray(record["exact_match"], float)


# -- intervals ----------------------------------------------------------------------------------------------


def bootstrap(statistic: Callable[[NDArray[np.int64]], Array], units: int, seed: int = 0) -> Interval:
    """Percentile interval of a statistic over resampled units (prompts, documents, items), 95 %.

    Args:
        statistic: Of unit numbers [resamples, units], one value for each row.
        units: How many there are.
        seed: Of the resampling.
    """
    draws = np.random.default_rng(seed).integers(units, size=(RESAMPLES, units))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(draws)
        values = np.where(np.isnan(values), np.inf, values)  # 0 / 0: nothing lost, so anything is possible
        point = float(statistic(np.arange(units, dtype=np.int64)[None])[0])
    # Not interpolated: between a number and infinity there is nothing.
    low, high = np.quantile(values, [0.025, 0.975], method="nearest")
    return Interval(point, float(low), float(high))


def mean_over_units(table: Array) -> Interval:
    """Mean of [seeds, units] over both, interval over units."""
    pooled = table.mean(0)
    return bootstrap(lambda draws: pooled[draws].mean(1), len(pooled))


def recovered(base: Array, low: Array, regained: Array) -> Interval:
    """(regained - low) / (base - low): the share of what was lost that is back; [seeds, units] each."""
    lost, back = (base - low).mean(0), (regained - low).mean(0)
    return bootstrap(lambda draws: back[draws].mean(1) / lost[draws].mean(1), len(lost))


def shown(interval: Interval, digits: int = 3) -> str:
    """For tables."""
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
