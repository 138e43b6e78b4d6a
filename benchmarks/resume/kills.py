"""Kill runs at random moments until there have been enough kills, and compare every end with the uninterrupted one.

python -m benchmarks.resume.kills --kills 100 --seed 1 --out benchmarks/resume/tiny.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rlhf_lightning.artefacts import versions
from tests.resume.chains import SCENARIOS, Bench, Outcome
from tests.resume.kill_server import KillServer

MOST_A_RUN = 4
"""Kills of one run before it may end."""


def kill_runs(root: Path, kills: int, seed: int) -> list[Outcome]:
    """Scenario after scenario, round after round, until there were `kills` kills."""
    outcomes: list[Outcome] = []
    with KillServer(root / "log.txt") as server:
        bench = Bench(root, server)
        bench.stages()
        references = {s.name: bench.finish(s, s.name) for s in SCENARIOS}
        count, number = 0, 0
        while count < kills:
            scenario = SCENARIOS[number % len(SCENARIOS)]
            run, most = f"{scenario.name}-{number}", min(MOST_A_RUN, kills - count)
            outcomes.append(bench.kill(scenario, references[scenario.name], run, most, seed + number))
            count, number = count + len(outcomes[-1].kills), number + 1
            print(
                f"{count:4d} kills  {scenario.name:28s} {outcomes[-1].kills} {outcomes[-1].differences[:2]}", flush=True
            )
    return outcomes


def summary(outcomes: list[Outcome], seed: int, seconds: float) -> dict[str, Any]:
    """What is written down."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit,
        "versions": versions(),
        "seed": seed,
        "seconds": round(seconds, 1),
        "kills": sum(len(o.kills) for o in outcomes),
        "runs": len(outcomes),
        "runs that ended differently": [vars(o) for o in outcomes if o.differences],
        "kills by phase": dict(Counter(k for o in outcomes for k in o.kills).most_common()),
        "kills by scenario": dict(Counter(o.scenario for o in outcomes for _ in o.kills).most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        outcomes = kill_runs(Path(directory), arguments.kills, arguments.seed)
    text = json.dumps(summary(outcomes, arguments.seed, time.monotonic() - start), indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
