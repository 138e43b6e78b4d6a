"""Kill the quickstart's PPO again and again, starting it with the same command, and compare it with a whole run.

Needs the quickstart's SFT and reward model and its finished PPO run:

python -m benchmarks.resume.quickstart --out benchmarks/resume/quickstart.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.resume.kills import summary
from rlhf_lightning.quickstart.run import KEEP_MEMORY, stage_command
from tests.resume.chains import Outcome
from tests.resume.comparison import differences


def command(root: Path, run: Path, seed: int) -> list[str]:
    """The quickstart's own command of its third stage, in another run directory."""
    args = stage_command("ppo", root, seed)
    args[args.index("--trainer.default_root_dir") + 1] = str(run)
    return [*args, "--trainer.enable_progress_bar", "false"]


def kill_run(args: list[str], run: Path, kills: int, whole_s: float, rng: random.Random) -> list[str]:
    """Where each kill came, as seconds since the start and the newest checkpoint there was."""
    moments = []
    while len(moments) < kills:
        # Starting takes some of it, and what came after the last checkpoint is lost: some starts get nowhere.
        delay = rng.uniform(0.4, 1.6) * 0.5 * whole_s / kills
        process = subprocess.Popen(args, env=os.environ | KEEP_MEMORY)
        try:
            process.wait(delay)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        newest = max((run / "lightning").glob("epoch*.ckpt"), key=lambda f: f.stat().st_mtime_ns, default=None)
        moments.append(f"after {delay:.1f} s, newest checkpoint {newest.stem if newest else None}")
        print(moments[-1], flush=True)
    subprocess.run(args, check=True, env=os.environ | KEEP_MEMORY)
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("checkpoints/quickstart"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    arguments = parser.parse_args()
    whole, run = arguments.root / "ppo", arguments.root / f"ppo-killed-{arguments.seed}"
    recorded = json.loads((whole / "final" / "stage.json").read_text())
    whole_s = json.loads((arguments.root / "seconds.json").read_text())["ppo"]
    start = time.monotonic()
    args = command(arguments.root, run, recorded["seed"])
    moments = kill_run(args, run, arguments.kills, whole_s, random.Random(arguments.seed))
    outcome = Outcome("quickstart PPO", moments, differences(whole, run))
    result = summary([outcome], arguments.seed, time.monotonic() - start)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
