"""Peak memory of PPO's roles on one base against four separate models of the same size, one iteration each.

Each variant runs the quickstart's PPO stage in a process of its own, in turn; the figure is the process's
largest resident size, as the operating system counts it, with the quickstart's settings of the allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from benchmarks.peer.report import machine
from rlhf_lightning.artefacts import versions
from rlhf_lightning.cli import main as command_line
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.ppo.roles import POLICY_KEY, REWARD_KEY, Roles
from rlhf_lightning.provenance import commit
from rlhf_lightning.quickstart.run import KEEP_MEMORY


def build_separate(self: Roles, policy, reward, lora, dtype) -> None:  # type: ignore[no-untyped-def]
    """Every role with a base of its own, as trainers do that hold four models."""
    for role, source, key in (
        ("policy", policy, POLICY_KEY),
        ("reference", policy, POLICY_KEY),
        ("reward", reward, REWARD_KEY),
        ("value", reward, REWARD_KEY),
    ):
        base = Backbone(load_causal_lm(source.model, dtype, key))
        self._place(role, base, source, lora, key, trainable=role in ("policy", "value"))


def measure(variant: str, root: str, precision: str) -> None:
    """Run one iteration and print the peak, in MiB."""
    args = ["fit", "--config", "configs/quickstart/ppo.yaml", "--trainer.max_epochs", "1"]
    args += ["--model.init_args.policy_from", f"{root}/sft", "--model.init_args.reward_from", f"{root}/reward"]
    args += ["--trainer.precision", precision, "--data.init_args.val", "null", "--trainer.enable_progress_bar", "false"]
    with tempfile.TemporaryDirectory() as directory:
        args += ["--trainer.default_root_dir", directory]
        build = build_separate if variant == "separate" else Roles._build_shared
        with mock.patch.object(Roles, "_build_shared", build):
            status = command_line(args)
    if status:
        sys.exit(f"error: {variant}, {precision} ended with {status}.")
    print(json.dumps({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """Measure both variants and write `benchmarks/memory/roles.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="checkpoints/quickstart")
    parser.add_argument("--variant", choices=["shared", "separate"])
    parser.add_argument("--precision", default="bf16-mixed")
    args = parser.parse_args()
    if args.variant:
        measure(args.variant, args.root, args.precision)
        return
    result: dict[str, object] = {"commit": commit(), "machine": machine("cpu"), "versions": versions()}
    for precision in ("bf16-mixed", "32-true"):
        peaks = {}
        for variant in ("shared", "separate"):
            command = [
                sys.executable,
                "-m",
                "benchmarks.memory.roles",
                "--root",
                args.root,
                "--variant",
                variant,
                "--precision",
                precision,
            ]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | KEEP_MEMORY)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            peaks[variant] = json.loads(done.stdout.strip().splitlines()[-1])["peak_mib"]
        result[precision] = peaks | {"ratio": peaks["shared"] / peaks["separate"]}
    text = json.dumps(result, indent=2)
    Path("benchmarks/memory/roles.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
