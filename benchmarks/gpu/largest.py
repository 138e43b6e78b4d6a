"""The largest model whose PPO fits on the card: four roles on one frozen base, beside four separate copies of it.

python -m benchmarks.gpu.largest --shapes 1b 8b 14b 32b --out benchmarks/gpu/results/largest.json

Each shape and variant is a process of its own: some steps of SFT and of the reward model, then iterations of PPO.
Weights are random and made on the device, so none are written or read. The peak is what torch has allocated at most
during PPO (on a CPU the process's largest resident size). After the first shape that does not fit, a variant is done.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from benchmarks.gpu.results import provenance, write
from benchmarks.gpu.shapes import SHAPES, build, configuration
from benchmarks.memory.roles import build_separate
from benchmarks.peer.meter import Meter
from benchmarks.peer.ours_ppo import NO_TOKEN, TimeIterations
from benchmarks.peer.ours_run import run
from benchmarks.peer.starts import train as train_starts
from benchmarks.peer.starts import with_checkout
from benchmarks.peer.starts import write_rows as write_starts
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.errors import in_chain
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.tiny import tokenizer
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.ppo.roles import Roles
from rlhf_lightning.rollouts.settings import SamplingSettings

VARIANTS = {"one base": Roles._build_shared, "four copies": build_separate}
PRECISION = "bf16-mixed"
OUT_OF_MEMORY = 3
"""Exit status of a process that ran out of it; 137 and -9 are the operating system's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["1b", "8b", "14b", "32b"])
    parser.add_argument("--prompts", type=int, default=64, help="prompts of an iteration")
    parser.add_argument("--tokens", type=int, default=128, help="of every prompt, and of every response")
    parser.add_argument("--iterations", type=int, default=2, help="the last one is timed")
    parser.add_argument(
        "--micro-batch-tokens", type=int, default=4096, help="model.init_args.memory.micro_batch_tokens"
    )
    parser.add_argument("--gradient-checkpointing", action="store_true", help="model.init_args.memory")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path, help="JSON file for the result; a Markdown table goes beside it")
    parser.add_argument("--measure", nargs=2, metavar=("SHAPE", "VARIANT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure, args)
        return
    given = {k: v for k, v in vars(args).items() if k not in ("out", "measure")}
    result = provenance(args.device) | {"options": given, "rows": (rows := [])}
    for variant in VARIANTS:
        for shape in args.shapes:  # in the order of their sizes
            rows.append({"shape": shape, "variant": variant} | in_its_own_process(shape, variant))
            write(result, table(rows), args.out)
            if not rows[-1]["fits"]:
                break


def in_its_own_process(shape: str, variant: str) -> dict[str, Any]:
    """Whether it fits, and then its peak in MiB, its parameters and the seconds of an iteration.

    Raises:
        SystemExit: It failed for another reason than memory.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.largest", *sys.argv[1:], "--measure", shape, variant]
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # both variants: no gaps between blocks
    done = subprocess.run(command, env=os.environ | with_checkout() | settings, capture_output=True, text=True)
    if done.returncode in (OUT_OF_MEMORY, 137, -9):
        return {"fits": False}
    if done.returncode:
        sys.exit(f"error: {shape}, {variant} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return {"fits": True, **json.loads(done.stdout.strip().splitlines()[-1])}


def measure(shape: str, variant: str, args: argparse.Namespace) -> None:
    """Run PPO of one shape and print what it took; ends with `OUT_OF_MEMORY` where it does not fit."""
    made = 0

    def from_nowhere(name: str, dtype: torch.dtype, **_: Any) -> tuple[Any, dict[str, list[str]]]:
        nonlocal made
        model = build(shape, args.device, dtype)
        made = sum(p.numel() for p in model.parameters())
        return model, {"missing_keys": []}

    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(AutoModelForCausalLM, "from_pretrained", from_nowhere),
    ):
        try:
            steps, peak = train(Path(directory), shape, variant, args)
        except Exception as error:
            if not in_chain(error, torch.OutOfMemoryError, MemoryError):  # loading a model wraps what it raises
                raise
            print(error, file=sys.stderr)
            sys.exit(OUT_OF_MEMORY)
    print(json.dumps({"parameters": made, "peak_mib": peak, "seconds": steps[-1]["seconds"], "steps": steps}))


def train(root: Path, shape: str, variant: str, args: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    """All three stages of a shape; the iterations of the last one, and its peak in MiB."""
    model = root / "model"
    configuration(shape).save_pretrained(model)
    tokenizer().save_pretrained(model)  # type: ignore[attr-defined]
    save_file({"none": torch.zeros(1)}, model / "model.safetensors")  # the weights are made, not read
    # A byte is a token.
    prompts = [f"{i:6} is a number.".ljust(args.tokens, ".") for i in range(args.prompts * args.iterations)]
    write_starts(root, [{"prompt": p, "response": str(i)} for i, p in enumerate(prompts)])
    train_starts(
        {"model": str(model), "directory": str(root), "device": args.device, "seed": 1, "precision": PRECISION}
    )
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    facts = {"batch_size": args.prompts, "response_tokens": args.tokens, "iterations": args.iterations}
    facts |= {"step_prompt_tokens": [args.prompts * args.tokens] * args.iterations}
    meter = Meter(args.device)
    with mock.patch.object(Roles, "_build_shared", VARIANTS[variant]):
        ppo = PPOModule(
            str(root / "sft"),
            str(root / "reward"),
            sampling=SamplingSettings(max_response_tokens=args.tokens, batch_size=args.prompts),
            num_minibatches=4,
            memory=MemorySettings(args.micro_batch_tokens, args.gradient_checkpointing),
            seed=1,
        )
        ppo.template.eos_id = NO_TOKEN  # every response has all its tokens
        data = PromptDataModule(str(root / "prompts.jsonl"), batch_size=args.prompts, max_prompt_tokens=2 * args.tokens)
        task = {"device": args.device, "precision": "bf16", "clip": 1.0, **facts}
        run(task, ppo, data, [TimeIterations(meter, task)])
    return meter.steps, meter.peak_mib


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each shape and variant."""
    cells = [
        [r["shape"], r["variant"], f"{r['peak_mib'] / 1024:.1f}", f"{r['seconds']:.1f}"]
        if r["fits"]
        else [r["shape"], r["variant"], "does not fit", ""]
        for r in rows
    ]
    return markdown_table(["model", "roles on", "peak GiB", "s an iteration"], cells)


if __name__ == "__main__":
    main()
