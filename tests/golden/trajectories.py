"""Twenty steps of every tiny configuration, written down. `python -m tests.golden.trajectories` records them again.

A change that moves them changes what users get from the same command: it must say so in CHANGELOG.md.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from rlhf_lightning.artefacts import versions
from rlhf_lightning.cli import main
from tests.resume.comparison import scalars, weights

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs" / "tiny"
LENGTH = {
    "sft": ("--trainer.max_epochs", "-1", "--trainer.max_steps", "20"),
    "reward": ("--trainer.max_epochs", "-1", "--trainer.max_steps", "20"),
    "ppo": ("--trainer.max_epochs", "5"),  # iterations of 4 steps
}


SMOOTH = ("--model.init_args.optimizer.eps", "1e-3")
"""Adam makes a full step of a gradient that is nothing but rounding, so with its usual eps another processor, which
adds in another order, soon samples other tokens. With this one, runs with AVX-512, with AVX2 and without vector
instructions agree to 2e-5."""


def run(stage: str, root: Path) -> Path:
    """Train a stage from those before it in `root`."""
    args = ["fit", "--config", str(CONFIGS / f"{stage}.yaml"), "--trainer.default_root_dir", str(root / stage)]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    if stage == "reward":
        args += ["--model.init_args.init_from", str(root / "sft")]
    if stage == "ppo":
        args += ["--model.init_args.policy_from", str(root / "sft")]
        args += ["--model.init_args.reward_from", str(root / "reward")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums, and so the rounding that twenty steps enlarge, goes by their number
    try:
        assert main([*args, *LENGTH[stage], *SMOOTH]) == 0
    finally:
        torch.set_num_threads(threads)
    return root / stage


def describe(run: Path) -> dict[str, Any]:
    """Every scalar by tag and step, and the norm of every tensor of the artefact."""
    curves: dict[str, dict[str, float]] = {}
    for (tag, step), value in sorted(scalars(run).items()):
        curves.setdefault(tag, {})[str(step)] = value
    return {"scalars": curves, "norms": {name: float(x.norm()) for name, x in sorted(weights(run).items())}}


def record() -> None:
    """Write the files beside this one."""
    with tempfile.TemporaryDirectory() as directory:
        for stage in LENGTH:
            content = {"versions": versions()} | describe(run(stage, Path(directory)))
            (HERE / f"{stage}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record()
