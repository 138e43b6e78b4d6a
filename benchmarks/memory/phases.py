"""Peak memory by phase of PPO iterations and of SFT and reward steps, under different memory settings.

Each variant is a run of the command line in a process of its own, with the quickstart's configuration and batches of
about a thousand tokens, which `micro_batch_tokens` cuts. glibc is told to hand freed memory back at once: the resident
size is then what is needed, not what the allocator has kept. The quickstart itself runs with an allocator that keeps,
so it holds more; `roles` and `page_faults` measure that.

    python -m benchmarks.memory.phases                  # after the quickstart
    python -m benchmarks.memory.phases --tiny --out /tmp/phases.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer.report import machine
from rlhf_lightning.artefacts import versions
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.provenance import commit

ORDER = ("load", "rollout", "scoring", "update", "step", "checkpoint", "artefact")
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
LENGTH = {
    "ppo": ["--trainer.max_epochs", "2", "--model.init_args.num_minibatches", "2", "--data.init_args.limit", "96"],
    "sft": ["--trainer.max_steps", "2"],
    "reward": ["--trainer.max_steps", "2", "--data.init_args.limit", "40", "--data.init_args.demonstrations", "null"],
}
BATCH = {"ppo": 48, "sft": 32, "reward": 10}
"""Some thousand tokens of the quickstart's data in a step; PPO makes two steps of them."""


@dataclass(frozen=True)
class Variant:
    """One run."""

    stage: str
    checkpointing: bool
    tokens: int

    def command(self, configs: str, root: Path, run: Path, extra: list[str]) -> list[str]:
        """The command line of the run; `root` has the artefacts that the stage starts from."""
        command = [sys.executable, "-m", "rlhf_lightning", "fit", "--config", f"{configs}/{self.stage}.yaml"]
        command += ["--trainer.default_root_dir", str(run), "--trainer.enable_progress_bar", "false"]
        command += ["--data.init_args.val", "null", "--data.init_args.batch_size", str(BATCH[self.stage])]
        command += ["--model.init_args.memory.micro_batch_tokens", str(self.tokens)]
        command += ["--model.init_args.memory.gradient_checkpointing", str(self.checkpointing).lower()]
        if self.stage == "reward":
            command += ["--model.init_args.init_from", str(root / "sft")]
        if self.stage == "ppo":
            command += ["--model.init_args.policy_from", str(root / "sft")]
            command += ["--model.init_args.reward_from", str(root / "reward")]
        return [*command, *LENGTH[self.stage], *extra]


def measure(variant: Variant, configs: str, root: Path, extra: list[str]) -> dict[str, Any]:
    """Run a variant and return what `PeakMemory` saw."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "peaks.json"
        watch = ["--trainer.callbacks+=benchmarks.memory.meter.PeakMemory", f"--trainer.callbacks.out={out}"]
        command = variant.command(configs, root, Path(directory) / "run", [*extra, *watch])
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | GIVE_BACK)
        if done.returncode:
            raise SystemExit(f"{variant}: {done.stderr[-2000:]}")
        return json.loads(out.read_text())  # type: ignore[no-any-return]


def train_tiny(root: Path) -> None:
    """The two artefacts that PPO starts from, of the random two-layer model."""
    for stage in ("sft", "reward"):
        command = Variant(stage, False, 4096).command("configs/tiny", root, root / stage, [])
        subprocess.run(command, check=True, capture_output=True)


def markdown(result: dict[str, Any]) -> str:
    """The result as a table: the peak of each phase in MiB, and in brackets the tensors alive after it."""
    rows = []
    for run in result["runs"]:
        cells = [run["stage"], run["tokens"], "yes" if run["checkpointing"] else "no", f"{run['start_mib']:.0f}"]
        for phase in ORDER:
            seen = run["phases"].get(phase)
            cells.append(f"{seen['peak_mib']:.0f} / {seen['own_mib']:.0f} ({seen['live_mib']:.0f})" if seen else "")
        rows.append(cells)
    columns = ["stage", "micro_batch_tokens", "gradient checkpointing", "imports", *ORDER]
    kind = "allocated on the GPU" if result["device"].startswith("cuda") else "resident in the process"
    return f"""# Peak memory by phase

Commit {result["commit"]}, {result["machine"]}, {result["model"]}, {result["precision"]}. MiB {kind}, the largest over
the phase, and after the stroke without mapped files (weights that are being loaded are such); in brackets the bytes
of all tensors alive after it. Batches: {BATCH} rows (prompts for reward and PPO).
`imports` is the process before anything of the run was built; it is inside the others on a CPU.

{markdown_table(columns, rows)}
"""


def main() -> None:
    """Measure all variants and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("checkpoints/quickstart"), help="a finished quickstart")
    parser.add_argument("--tiny", action="store_true", help="the random two-layer model instead")
    parser.add_argument("--stages", nargs="+", default=["sft", "reward", "ppo"], choices=["sft", "reward", "ppo"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[256, 512, 2048], help="micro_batch_tokens")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/memory/phases.json"))
    args = parser.parse_args()
    configs = "configs/tiny" if args.tiny else "configs/quickstart"
    extra = ["--trainer.precision", args.precision]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) if args.tiny else args.root
        if args.tiny:
            train_tiny(root)
        runs = []
        for stage in args.stages:
            # Checkpointing acts on one forward; how it goes with every limit is seen at the largest.
            for variant in [*(Variant(stage, False, n) for n in args.tokens), Variant(stage, True, max(args.tokens))]:
                runs.append(variant.__dict__ | measure(variant, configs, root, extra))
                print(json.dumps(runs[-1]), flush=True)
    result = {
        "commit": commit(),
        "machine": f"{(where := machine('cpu'))['cpu']}, {where['threads']} threads",
        "versions": versions(),
        "model": "tiny" if args.tiny else "SmolLM2-135M-Instruct",
        "precision": args.precision,
        "device": runs[0]["device"],
        "runs": runs,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    args.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
