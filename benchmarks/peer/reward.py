"""The reward model against TRL: rankings of K responses here, all their K(K-1)/2 pairs there.

python -m benchmarks.peer.reward --k 4 9 --out benchmarks/peer/results/reward.json
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.peer.agreement import compare_losses
from benchmarks.peer.command import Bench, options
from benchmarks.peer.environment import TRL
from benchmarks.peer.flops import Sizes, sizes
from benchmarks.peer.ratios import paired_ratios, summarize
from benchmarks.peer.turns import SIDES


def micro_batch(pairs: int, largest: int) -> int:
    """Pairs of the peer's forward: the most that divide a step's pairs evenly and are at most `largest`.

    >>> micro_batch(72, 12), micro_batch(12, 12), micro_batch(10, 4)
    (12, 12, 2)
    """
    return max(n for n in range(1, largest + 1) if pairs % n == 0)


def measure(bench: Bench, k: int, size: Sizes) -> None:
    """Run one K and add it to the result."""
    args = bench.args
    work = bench.maker.reward((1 if args.check else args.steps) + 1, args.prompts, k)
    pairs = work.facts["pairs_per_step"]
    micro = pairs if args.micro_pairs is None and pairs <= 12 else micro_batch(pairs, args.micro_pairs or 12)
    name = f"K = {k}"
    runs = bench.run(
        name,
        1 if args.check else None,
        ours=work.ours,
        peer=work.peer,
        batch_size=args.prompts,
        micro_pairs=micro,
        start=bench.starts["reward"],
        **work.facts,
    )
    part: dict[str, Any] = {"runs": runs, "work": work.facts, "micro_pairs": micro, "note": _note(work.facts)}
    part["agreement"] = compare_losses(runs["ours"][0]["steps"], runs["trl"][0]["steps"], args.precision)
    if not args.check:
        part["summary"] = {side: summarize(runs[side]) for side in SIDES}
        part["ratios"] = paired_ratios(runs["ours"], runs["trl"])
        part["flops_per_s"] = needed_flops(runs, work.facts["step_tokens_ours"], size)
    bench.parts[name] = part


def needed_flops(runs: dict[str, list[dict[str, Any]]], tokens: list[int], size: Sizes) -> dict[str, float]:
    """Needed operations a second of both sides, whatever a side computes beyond them.

    Args:
        runs: Of each side.
        tokens: Of each step, with a prompt once for all its responses.
        size: Of the model.
    """
    found = {}
    for side in SIDES:
        timed = [zip(tokens, run["steps"], strict=True) for run in runs[side]]
        steps = [[{"seconds": step["seconds"], "needed": count} for count, step in run] for run in timed]
        rates = summarize([{"steps": own, "peak_mib": 0.0} for own in steps])
        found[side] = size.training(rates["needed_per_s"]["median"])
    return found


def _note(facts: dict[str, Any]) -> str:
    text = (
        "Tokens are those that a side computes: here a prompt once and its K responses, there a prompt and a response "
        "for both sides of every pair; the share of what the machine can do counts the former for both. Ties are "
        "broken by the responses' order in the file."
    )
    borrowed, total = facts["rankings_with_borrowed_responses"], facts["rankings"]
    if borrowed:
        text += (
            f" {borrowed} of {total} rankings had fewer than {facts['k']} different responses of their own and borrow "
            "the others, ranked last, from other prompts."
        )
    return text


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__ or "", steps=2)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--k", type=int, nargs="+", default=[4, 9], help="responses of a ranking")
    parser.add_argument("--pairs", action="store_true", help="K = 2, from comparisons where --data has them")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of a step")
    parser.add_argument("--micro-pairs", type=int, help="most pairs of a forward of the peer; by default 12")
    args = parser.parse_args(arguments)
    bench = Bench("reward", args, TRL, peer_dtype="float32")
    size = sizes(bench.base)
    for k in [2] if args.pairs else args.k:
        measure(bench, k, size)
    bench.finish()


if __name__ == "__main__":
    main()
