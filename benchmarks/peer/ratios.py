"""From the steps of every run to rates, and from paired repetitions to ratios with their spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Run = Mapping[str, Any]


def rates(run: Run, warmup: int = 1) -> dict[str, float]:
    """Medians over the steps of a run that come after the warm-up.

    Whatever a step counts under `samples`, `tokens`, ... becomes `samples_per_s`, ...; parts of its time, whose names
    end in `_s`, stay seconds.

    >>> steps = [{"seconds": 9.0, "samples": 8}, {"seconds": 2.0, "samples": 8}, {"seconds": 4.0, "samples": 8}]
    >>> rates({"steps": steps, "peak_mib": 5.0})
    {'step_s': 3.0, 'samples_per_s': 3.0, 'peak_mib': 5.0}

    Raises:
        ValueError: No step is left after the warm-up.
    """
    steps = run["steps"][warmup:]
    if not steps:
        raise ValueError(f"a run of {len(run['steps'])} steps leaves none after the warm-up of {warmup}")
    found = {"step_s": median(s["seconds"] for s in steps)}
    for name in steps[0]:
        if name in ("seconds", "loss"):
            continue
        if name.endswith("_s"):
            found[name] = median(s[name] for s in steps)
        else:
            found[f"{name}_per_s"] = median(s[name] / s["seconds"] for s in steps)
    return found | {"peak_mib": run["peak_mib"]}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": median(values), "min": min(values), "max": max(values)}


def summarize(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Every rate of several runs of one side, with its spread."""
    each = [rates(run) for run in runs]
    return {name: spread([r[name] for r in each]) for name in each[0]}


def paired_ratios(ours: Sequence[Run], peer: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Ours divided by the peer's, repetition by repetition, for every rate that both have, with its spread.

    Pairs and not ratios of medians: what slows the machine for a while slows two runs that follow one another.
    """
    each = []
    for a, b in zip(ours, peer, strict=True):
        ra, rb = rates(a), rates(b)
        each.append({name: ra[name] / rb[name] for name in ra if rb.get(name)})
    return {name: spread([r[name] for r in each]) for name in each[0]}
