"""Supervised fine-tuning against TRL: LoRA on batches of 8, not packed and packed; `--full` trains all weights.

python -m benchmarks.peer.sft --out benchmarks/peer/results/sft.json
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.peer.agreement import compare_epoch_loss, compare_losses
from benchmarks.peer.command import Bench, options
from benchmarks.peer.environment import TRL
from benchmarks.peer.flops import Sizes, sizes
from benchmarks.peer.ratios import paired_ratios, summarize
from benchmarks.peer.turns import SIDES
from benchmarks.peer.work import MAX_PROMPT, MAX_RESPONSE, Work

Runs = dict[str, list[dict[str, Any]]]
NOTE = (
    "Packed rows hold other examples together on the two sides, so not their steps are compared but the mean loss of "
    "all label tokens at learning rate 0, which is also what the packed runs are timed at."
)


def measure(bench: Bench, work: Work, size: Sizes, packed: bool) -> None:
    """Run one mode and add it to the result."""
    args = bench.args
    batch = args.batch_size
    if packed:  # about as many tokens a step as without packing
        batch = max(1, round(batch * work.facts["mean_tokens"] / (MAX_PROMPT + MAX_RESPONSE)))
    runs = bench.run(
        "packed" if packed else "unpacked",
        1 if args.check else None,
        ours=work.ours,
        peer=work.peer,
        batch_size=batch,
        packed=packed,
        full=args.full,
        start=bench.base if args.full else bench.starts["sft"],
        **({"lr": 0.0} if packed else {}),
        **work.facts,
    )
    compare = compare_epoch_loss if packed else compare_losses
    part: dict[str, Any] = {"runs": runs, "work": work.facts, "batch_size": batch, "note": NOTE if packed else None}
    part["agreement"] = compare(runs["ours"][0]["steps"], runs["trl"][0]["steps"], args.precision)
    if not args.check:
        part["summary"] = {side: summarize(runs[side]) for side in SIDES}
        part["ratios"] = paired_ratios(runs["ours"], runs["trl"])
        part["flops_per_s"] = {side: _flops(part["summary"][side], size, args.full) for side in SIDES}
    bench.parts["packed" if packed else "unpacked"] = part


def _flops(summary: dict[str, dict[str, float]], size: Sizes, full: bool) -> float:
    rate = {name: summary[name]["median"] for name in ("tokens_per_s", "labels_per_s")}
    return size.training(rate["tokens_per_s"], rate["labels_per_s"], frozen=not full)


def best_against_best(bench: Bench) -> None:
    """Tokens a second of the mode that each side does best."""
    parts = [p for p in bench.parts.values() if "summary" in p]
    if len(parts) < 2:
        return
    best = {s: max(parts, key=lambda p, s=s: p["summary"][s]["tokens_per_s"]["median"])["runs"][s] for s in SIDES}
    for part in parts:
        part["best_mode_ratio"] = paired_ratios(best["ours"], best["trl"])["tokens_per_s"]
    ratio = parts[0]["best_mode_ratio"]
    print(f"Best mode against best mode: {ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}] tokens / s")


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__ or "", steps=4)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch-size", type=int, default=8, help="demonstrations of a step")
    parser.add_argument("--full", action="store_true", help="train all weights instead of LoRA")
    parser.add_argument("--mode", choices=["unpacked", "packed", "both"], default="both")
    args = parser.parse_args(arguments)
    bench = Bench("sft", args, TRL, peer_dtype="float32")
    # The last packed batch is often smaller: one step more keeps the number of whole ones.
    work = bench.maker.sft((1 if args.check else args.steps) + 1, args.batch_size)
    size = sizes(bench.base)
    for mode in ("unpacked", "packed"):
        if args.mode in (mode, "both"):
            measure(bench, work, size, packed=mode == "packed")
    best_against_best(bench)
    bench.finish()


if __name__ == "__main__":
    main()
