"""PPO iterations of this project alone: time and share of the card of rollout, scoring and update, and peak memory.

python -m benchmarks.gpu.ppo --shapes 135m 1b --out benchmarks/gpu/results/ppo.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import provenance, write
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.shapes import write as write_model
from benchmarks.peer.command import Bench, options
from benchmarks.peer.environment import PPO_TRL
from benchmarks.peer.floor import measure_floor
from benchmarks.peer.flops import decode_bytes, ppo_flops, sizes
from benchmarks.peer.ratios import rates
from benchmarks.peer.turns import run_side
from rlhf_lightning.callbacks import markdown_table


def main() -> None:
    parser = options(__doc__ or "", steps=3, repetitions=1)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["135m", "1b"])
    parser.add_argument("--prompts", type=int, default=64, help="prompts of an iteration")
    parser.add_argument("--response-tokens", type=int, default=256, help="of every response")
    parser.add_argument("--minibatches", type=int, default=4, help="optimizer steps of an iteration")
    parser.add_argument("--peak-gflops", type=float, help="bf16 rate to compare with; by default the one measured")
    parser.set_defaults(device="cuda")
    args = parser.parse_args()
    args.peer_python = "none"
    result = provenance(args.device)
    result["floor"] = floor = measure_floor(args.device)
    peak = (args.peak_gflops or max(v for name, v in floor.items() if "bfloat16" in name)) * 1e9
    result["rows"] = [row(shape, args, peak, floor["read_gb_s"] * 1e9) for shape in args.shapes]
    write(result, table(result["rows"]), args.out)


def row(shape: str, args: argparse.Namespace, peak: float, bandwidth: float) -> dict[str, Any]:
    """One shape: medians over the iterations after the first."""
    args.model = write_model(shape, Path(args.work) / "shapes", args.device)
    bench = Bench("ppo", args, PPO_TRL, peer_dtype="bfloat16")
    iterations, length = args.steps + 1, args.response_tokens
    work = bench.maker.ppo(iterations, args.prompts, length)
    facts = {"batch_size": args.prompts, "response_tokens": length, "minibatches": args.minibatches}
    facts |= {"kl_coef": 0.05, "clip": None, "ours": work.ours, "peer": work.peer, "iterations": iterations}
    task = bench.task("ours", **facts, **work.facts)
    run = run_side("ours", "ppo", task, args.peer_python, bench.environments(args.precision)["ours"])
    found = rates(run)
    size = sizes(bench.base)
    needed = ppo_flops(size, found["tokens_per_s"] * found["step_s"], args.prompts * length)
    shares = {name: needed[name] / found[f"{name}_s"] / peak for name in needed}
    shares["rollout"] = decode_bytes(size, length) / found["rollout_s"] / bandwidth
    print(shape, found, shares, flush=True)
    return {"shape": shape, **found, "shares": shares}


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each shape."""
    names = ("rollout", "scoring", "update")
    cells = [
        [
            r["shape"],
            f"{r['step_s']:.2f}",
            *(f"{r[f'{n}_s']:.2f} ({r['shares'][n]:.1%})" for n in names),
            f"{r['samples_per_s']:.1f}",
            f"{r['peak_mib']:.0f}",
        ]
        for r in rows
    ]
    heads = ["rollout s (of bandwidth, weights alone)", "scoring s (of bf16 rate)", "update s (of bf16 rate)"]
    return markdown_table(["model", "s an iteration", *heads, "samples / s", "peak MiB"], cells)


if __name__ == "__main__":
    main()
