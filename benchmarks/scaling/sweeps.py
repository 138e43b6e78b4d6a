"""The sweeps: one property of the work varied, the others fixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.scaling.work import Work

STAGES = ("sft", "reward", "ppo")


@dataclass(frozen=True)
class Sweep:
    """Points whose `variable` takes `values`."""

    variable: str
    """A field of `Work`."""
    values: tuple[int, ...]
    theory: str
    """What theory says, in words; the numbers come from `Work.operations` and `Work.held_bytes`."""
    stages: tuple[str, ...] = STAGES
    fixed: dict[str, Any] = field(default_factory=dict)

    def points(self, stage: str) -> Iterator[Work]:
        """The work of each value."""
        for value in self.values:
            yield replace(Work(stage, **self.fixed), **{self.variable: value})


SWEEPS = {
    "response": Sweep(
        "response", (32, 64, 128, 256, 512), "time and memory linear, attention adds a square", fixed={"prompt": 32}
    ),
    "prompt": Sweep(
        "prompt",
        (32, 64, 128, 256, 512),
        "below linear (responses stay), attention adds a square",
        fixed={"response": 32},
    ),
    "batch": Sweep(
        "batch",
        (8, 16, 32, 64, 128),
        "time linear, memory constant once a batch exceeds micro_batch_tokens",
        fixed={"prompt": 32, "response": 32, "micro_batch_tokens": 512, "decode_batch": 16},
    ),
    "k": Sweep(
        "k", (2, 4, 8, 16, 32), "below linear: K responses share a prompt", ("reward",), {"prompt": 256, "response": 32}
    ),
    "micro_batch_tokens": Sweep(
        "micro_batch_tokens",
        (256, 512, 1024, 2048, 4096),
        "time constant, memory linear",
        fixed={"batch": 64, "prompt": 64, "response": 64, "k": 2},
    ),
    "width": Sweep("hidden", (64, 128, 256, 512), "time near the square, memory linear"),
    "depth": Sweep("layers", (1, 2, 4, 8), "linear; scoring keeps one layer at a time"),
    "processes": Sweep(
        "processes", (1, 2), "time constant on the same cores, memory of each halves", fixed={"batch": 32}
    ),
}
