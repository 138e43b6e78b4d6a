"""Does the trust report find what is planted? Two real reward models, one taught by rankings with three faults.

    python -m benchmarks.evaluation.planted --root checkpoints/planted --out benchmarks/evaluation/results

Trains the quickstart's SFT model and two reward models through the command line, each resumed where it was cut off and
skipped where it is finished, has the trust report written about both, and says whether the first names the three faults
and nothing else of their kind, and the second none. 8 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.evaluation.planted_data import write, write_samples
from rlhf_lightning.artefacts import versions
from rlhf_lightning.provenance import commit
from rlhf_lightning.quickstart.run import KEEP_MEMORY

PLANTED = {"training_gap": "refusal", "noisy_labeler": "emil", "length_labeler": "fay"}
"""Kind of finding and what its subject must name."""


def fit(stage: str, run: Path, seed: int, *extra: str) -> None:
    """Run, resume or skip a stage."""
    if (run / "final" / "stage.json").is_file():
        return
    call(
        *("fit", "--config", f"configs/quickstart/{stage}.yaml", "--seed_everything", str(seed)),
        *("--trainer.default_root_dir", str(run), *extra, "--ckpt_path", "last"),
    )


def call(*args: str) -> None:
    """`python -m rlhf_lightning` with these arguments.

    Raises:
        SystemExit: It failed; its own message is on the screen.
    """
    print("$ python -m rlhf_lightning", *args, flush=True)
    done = subprocess.run([sys.executable, "-m", "rlhf_lightning", *args], env=os.environ | KEEP_MEMORY)
    if done.returncode:
        raise SystemExit(done.returncode)


def case(root: Path, name: str, seed: int) -> dict[str, Any]:
    """Data, reward model and report of one case; the report's content."""
    home = root / name
    write(home, planted=name == "planted", seed=seed)
    write_samples(home / "samples.jsonl", home / "heldout.jsonl")
    fit(
        "reward",
        home / "reward",
        seed,
        *("--model.init_args.init_from", str(root / "sft"), "--data.init_args.train", str(home / "train.jsonl")),
        *("--data.init_args.val", "null", "--data.init_args.max_response_tokens", "64"),
    )
    call(
        *("trust", "--reward", str(home / "reward"), "--rankings", str(home / "heldout.jsonl")),
        *("--generations.sft", str(home / "samples.jsonl"), "--out", str(home / "trust")),
    )
    report: dict[str, Any] = json.loads((home / "trust" / "trust.json").read_text())
    return report


def named(report: dict[str, Any]) -> dict[str, list[str]]:
    """Subjects of the findings of the planted kinds."""
    return {kind: [f["subject"] for f in report["findings"] if f["kind"] == kind] for kind in PLANTED}


def main() -> None:
    """Run everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("checkpoints/planted"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/evaluation/results"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    fit("sft", args.root / "sft", args.seed)
    reports = {name: case(args.root, name, args.seed) for name in ("planted", "control")}
    found = {name: named(report) for name, report in reports.items()}
    right = all(len(s) == 1 and PLANTED[k] in s[0] for k, s in found["planted"].items())
    result = {
        "commit": commit(),
        "seed": args.seed,
        "versions": versions(),
        "seconds_of_this_call": round(time.perf_counter() - start, 1),
        "planted_are_named_and_nothing_else_of_their_kind": right,
        "control_names_none": not any(found["control"].values()),
        **{
            name: {"accuracy": report["accuracy"], "named": found[name], "findings": report["findings"]}
            for name, report in reports.items()
        },
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "planted.json").write_text(json.dumps(result, indent=1) + "\n")
    for name in reports:
        shutil.copy(args.root / name / "trust" / "trust.md", args.out / f"{name}.md")
    print(json.dumps({name: found[name] for name in reports}, indent=1))


if __name__ == "__main__":
    main()
