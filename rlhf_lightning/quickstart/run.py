"""`make quickstart`: SFT, reward model, PPO and the comparison, each skipped when finished, resumed when cut off."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rlhf_lightning.artefacts import read_info
from rlhf_lightning.cli import is_finished, quieten, reported
from rlhf_lightning.errors import UserError
from rlhf_lightning.memory import keep_few_products
from rlhf_lightning.quickstart.compare import build_panel, compare
from rlhf_lightning.quickstart.evaluation_files import write_page
from rlhf_lightning.quickstart.report import write_report
from rlhf_lightning.seeding import derive_seed
from rlhf_lightning.whole_files import write_json

CONFIGS = Path("configs/quickstart")
STAGES = ("sft", "reward", "ppo")
MAX_TOKENS = 32

# On virtual machines fresh memory is expensive: glibc is told to keep what it has been given.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


def stage_command(stage: str, root: Path, seed: int) -> list[str]:
    """The command line of a stage, the same one a user would type."""
    command = [sys.executable, "-m", "rlhf_lightning", "fit", "--config", str(CONFIGS / f"{stage}.yaml")]
    command += ["--seed_everything", str(seed), "--trainer.default_root_dir", str(root / stage)]
    if stage == "reward":
        command += ["--model.init_args.init_from", str(root / "sft")]
    if stage == "ppo":
        command += ["--model.init_args.policy_from", str(root / "sft")]
        command += ["--model.init_args.reward_from", str(root / "reward")]
    return [*command, "--ckpt_path", "last"]


def run_stage(stage: str, root: Path, seed: int) -> None:
    """Run, resume or skip a stage.

    Raises:
        SystemExit: The stage failed; its own message is on the screen.
    """
    if is_finished(root / stage):
        print(f"[{stage}] already finished: {root / stage / 'final'}", flush=True)
        return
    print(f"[{stage}] {' '.join(stage_command(stage, root, seed)[1:])}", flush=True)
    done = subprocess.run(stage_command(stage, root, seed), env=os.environ | KEEP_MEMORY)
    if done.returncode:
        raise SystemExit(done.returncode)


def check_seeds(root: Path, seeds: Mapping[str, int]) -> None:
    """A finished stage is skipped, so it has to be of the seed that is asked for.

    Args:
        root: Where the runs are.
        seeds: Of each stage.

    Raises:
        UserError: A finished stage has another one.
    """
    for stage, seed in seeds.items():
        if is_finished(root / stage):
            found = read_info(root / stage / "final", "ROOT").seed
            if found != seed:
                raise UserError(
                    f"ROOT: {str(root)!r} holds a finished {stage} stage of seed {found}, not {seed}. Give another "
                    f"directory, such as `ROOT={root}_seed{seed}`, or seed {found}."
                )


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of every stage and of the comparison")
    parser.add_argument("--ppo-seed", type=int, help="another seed for PPO and the comparison; by default --seed")
    parser.add_argument("--root", type=Path, default=Path("checkpoints/quickstart"), help="where the runs go")
    args = parser.parse_args()
    return reported(lambda: quickstart(args.root, args.seed, args.seed if args.ppo_seed is None else args.ppo_seed))


def quickstart(root: Path, seed: int, ppo_seed: int) -> int:
    """Run what is not finished yet, and compare.

    Args:
        root: Where the runs go.
        seed: Of SFT and the reward model.
        ppo_seed: Of PPO and the comparison.

    Raises:
        UserError: A finished stage there has another seed.
    """
    seeds = dict.fromkeys(STAGES, seed) | {"ppo": ppo_seed}
    check_seeds(root, seeds)
    quieten()
    keep_few_products()
    root.mkdir(parents=True, exist_ok=True)
    clock = Clock(root / "seconds.json")
    for stage in STAGES:
        with clock.timing(stage):
            run_stage(stage, root, seeds[stage])
    clock.seconds.pop("comparison", None)  # made anew each time
    with clock.timing("comparison"):
        panel = build_panel(root, "embedded:smollm2-135m-instruct")
        out = root / "evaluation"
        result = compare(panel, CONFIGS / "data", derive_seed(ppo_seed, "comparison"), MAX_TOKENS, out)
    result |= {"stage_seconds": clock.seconds, "stage_seeds": seeds}
    print(write_report(root, result, ppo_seed, sum(clock.seconds.values())))
    print(f"Written: {root / 'report.md'}, {root / 'report.json'}. Curves: tensorboard --logdir {root}")
    head = json.loads((root / "report.json").read_text())
    command = ["make", "quickstart", f"SEED={seed}", f"ROOT={root}"]
    command += [f"PPO_SEED={ppo_seed}"] if ppo_seed != seed else []
    print(f"Open in a browser: {write_page(out, root, head, command).resolve()}")
    return 0


class Clock:
    """Seconds spent in each part, over interrupted runs too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def timing(self, part: str) -> Clock:
        """Use as `with clock.timing("sft"):`."""
        self._part, self._start = part, time.perf_counter()
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._start
        self.seconds[self._part] = round(self.seconds.get(self._part, 0.0) + spent, 1)
        write_json(self.path, self.seconds)


if __name__ == "__main__":
    sys.exit(main())
