"""How often the trust report accuses where nothing is wrong, and overlooks what is: many synthetic worlds, no model.

python -m benchmarks.evaluation.trust_errors --out benchmarks/evaluation/results/trust_errors.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rlhf_lightning.evaluation.trust.report import trust_report
from rlhf_lightning.provenance import commit
from tests.evaluation.trust.synthetic import GAP, NOISY, RULER, World, make

SUBJECTS = {"training_gap": GAP, "noisy_labeler": NOISY, "length_labeler": RULER}
WORLDS = {
    "nothing planted": World(planted=False),
    "nothing planted, uneven": World(planted=False, uneven=True),
    "nothing planted, few prompts": World(planted=False, uneven=True, prompts=50, training_prompts=100),
    "planted": World(planted=True),
    "planted, uneven": World(planted=True, uneven=True),
    "planted, few prompts": World(planted=True, uneven=True, prompts=50, training_prompts=100),
}


def measure(world: World, repetitions: int) -> dict[str, Any]:
    """Share of the repetitions that have a finding of each kind, and in which the planted ones are named right."""
    kinds: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong = 0
    for seed in tqdm(range(repetitions), leave=False):
        findings = trust_report(make(world, seed)).findings
        kinds.update({f.kind for f in findings})
        accused = [(f.kind, f.subject) for f in findings if f.kind in SUBJECTS]
        good = {kind for kind, subject in accused if world.planted and SUBJECTS[kind] in subject}
        right.update(good)
        wrong += any(not (world.planted and SUBJECTS[kind] in subject) for kind, subject in accused)
    share = {kind: count / repetitions for kind, count in sorted(kinds.items())}
    return {
        "repetitions": repetitions,
        "wrongly_accused_of_one_of_the_three": wrong / repetitions,
        "rightly_named": {kind: right[kind] / repetitions for kind in SUBJECTS} if world.planted else None,
        "any_finding_by_kind": share,
    }


def main() -> None:
    """Measure all worlds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    result = {name: measure(world, args.repetitions) for name, world in WORLDS.items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"commit": commit(), **result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
