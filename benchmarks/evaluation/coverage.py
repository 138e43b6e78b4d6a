"""How often the 95 % intervals of win rates, length-controlled win rates and ratings hold the truth, by simulation.

Four models answer prompts. Each response's quality is the model's ability plus Gumbel noise, of which a share belongs
to the prompt and is different for every model, so that a prompt's samples are alike, and all comparisons of a prompt
share their qualities, as they do with a judge that scores. Qualities closer than a margin are ties. The truth is what
the same estimator gives on a very large number of prompts.

Run `python -m benchmarks.evaluation.coverage`; it writes `coverage.json` and `coverage.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.artefacts import versions
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.evaluation.comparing import Outcome
from rlhf_lightning.evaluation.intervals import Interval, mean_interval, rate_interval
from rlhf_lightning.evaluation.length_control import length_controlled
from rlhf_lightning.evaluation.ratings import bradley_terry, rating_intervals
from rlhf_lightning.provenance import commit

Array = NDArray[np.float64]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class World:
    """Where comparisons come from."""

    prompts: int
    samples: int
    margin: float
    """Qualities that differ by no more are a tie."""
    abilities: tuple[float, ...]
    """Of the models, in nats; the first is the baseline."""
    shared: float = 0.5
    """Share of the noise that all samples of a prompt have in common."""
    length_effect: float = 0.0
    """Quality per unit of (standardised) length; the second model writes one unit more."""

    def draw(self, prompts: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """[N, S, M, M] outcomes of the row's model against the column's, and [N, S, M] lengths."""
        shape = (prompts, self.samples, len(self.abilities))
        of_prompt = rng.gumbel(size=(prompts, 1, shape[2])) * np.sqrt(self.shared)
        noise = of_prompt + rng.gumbel(size=shape) * np.sqrt(1 - self.shared)
        lengths = rng.normal(size=shape) + (np.arange(shape[2]) == 1)
        quality = np.array(self.abilities) + noise + self.length_effect * lengths
        gap = quality[..., :, None] - quality[..., None, :]
        outcomes = np.where(np.abs(gap) <= self.margin, 0.5, (gap > 0).astype(float))
        outcomes[..., np.arange(shape[2]), np.arange(shape[2])] = 0
        return outcomes, lengths


def rate_of(outcomes: Array) -> Array:
    """[N], the second model against the first, a prompt's samples averaged."""
    return np.asarray(outcomes[:, :, 1, 0].mean(1))


def controlled(outcomes: Array, lengths: Array) -> Interval:
    """The length-controlled win rate of the second model against the first."""
    n, s = outcomes.shape[:2]
    gaps = np.rint(1000 * (lengths[:, :, 1] - lengths[:, :, 0])).astype(int)
    rows = [
        Outcome(str(i), j, float(outcomes[i, j, 1, 0]), length_difference=int(gaps[i, j]))
        for i in range(n)
        for j in range(s)
    ]
    found = length_controlled(rows)
    assert found
    return Interval(found["mean"], found["low"], found["high"])


def covered(interval: Interval, truth: float) -> bool:
    """Whether an interval holds the truth, but for the last digits of floating point."""
    return interval.low - 1e-9 <= truth <= interval.high + 1e-9


def coverage(
    world: World, repetitions: int, seed: int, with_bootstrap: bool = False, large: int = 200_000
) -> dict[str, float]:
    """Share of repetitions in which each interval holds the truth.

    Args:
        world: Where comparisons come from.
        repetitions: Synthetic data sets.
        seed: Of all of them.
        with_bootstrap: Also the percentile bootstrap of the win rate, for comparison.
        large: Prompts that the truth is taken from.
    """
    rng = np.random.default_rng(seed)
    outcomes, lengths = world.draw(large, rng)
    true_rate = float(rate_of(outcomes).mean())
    true_ratings = bradley_terry(outcomes.mean(1).sum(0))
    true_controlled = controlled(outcomes[:50_000], lengths[:50_000]).mean if world.length_effect else 0.0
    hits: dict[str, list[bool]] = {"win rate": [], "ratings": []}
    for _ in range(repetitions):
        outcomes, lengths = world.draw(world.prompts, rng)
        rates = rate_of(outcomes)
        hits["win rate"].append(covered(rate_interval(rates.tolist()), true_rate))
        found = rating_intervals(outcomes.mean(1), anchor=0)
        hits["ratings"] += [covered(i, float(t)) for i, t in zip(found[1:], true_ratings[1:], strict=True)]
        if world.length_effect:
            hits.setdefault("length-controlled", []).append(covered(controlled(outcomes, lengths), true_controlled))
        if with_bootstrap:
            percentile = mean_interval(rates.tolist(), seed, resamples=1000)
            hits.setdefault("win rate, percentile bootstrap", []).append(covered(percentile, true_rate))
    return {"true win rate": true_rate} | {name: sum(h) / len(h) for name, h in hits.items()}


NEAR, FAR, EXTREME = (0.0, 0.4, 0.8, 1.2), (0.0, 1.0, 2.0, 3.0), (0.0, 3.4, 1.0, 2.0)
WORLDS = [
    World(prompts, samples, margin, abilities, length_effect=effect)
    for abilities, effect in ((NEAR, 0.5), (FAR, 0.5), (EXTREME, 0.0))
    for prompts in (50, 100, 300)
    for samples, margin in ((1, 0.0), (2, 0.3))
]


def main() -> None:
    """Run all worlds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000, help="synthetic data sets for each world")
    parser.add_argument("--seed", type=int, default=1, help="seed of all of them")
    args = parser.parse_args()
    start = time.perf_counter()
    rows = []
    for number, world in enumerate(WORLDS):
        rows.append(asdict(world) | coverage(world, args.repetitions, args.seed + number, with_bootstrap=True))
        print(rows[-1], flush=True)
    about = {"commit": commit(), "repetitions": args.repetitions, "seed": args.seed, "versions": versions()}
    about |= {"machine": platform.platform(), "seconds": round(time.perf_counter() - start, 1)}
    (HERE / "coverage.json").write_text(json.dumps(about | {"worlds": rows}, indent=2) + "\n")
    (HERE / "coverage.md").write_text(markdown(about, rows))


def markdown(about: dict[str, object], rows: list[dict[str, object]]) -> str:
    """The results as a page."""

    def cells(row: dict[str, object], show: Callable[[object], str]) -> list[str]:
        names = ("win rate", "win rate, percentile bootstrap", "length-controlled", "ratings")
        return [show(row[name]) if name in row else "" for name in names]

    table = [
        [
            *(row["prompts"], row["samples"], row["margin"], f"{row['true win rate']:.3f}"),
            *cells(row, lambda share: f"{100 * float(str(share)):.1f}"),
        ]
        for row in rows
    ]
    columns = ["prompts", "samples", "tie margin", "true win rate", "win rate", "(percentile bootstrap)"]
    columns += ["length-controlled", "ratings of 3 models"]
    return f"""# Coverage of the 95 % intervals

Share (%) of {about["repetitions"]} synthetic data sets whose interval holds the truth; the sampling error of a share is
0.7 (ratings: 0.4 or more, as three are counted together). Seed {about["seed"]}, commit {about["commit"]}. How the
data is made is in `coverage.py`.

{markdown_table(columns, table)}

The percentile bootstrap of a win rate is there because it is the usual choice: it falls short where rates are extreme
and prompts few.
"""


if __name__ == "__main__":
    main()
