"""PPO against TRL 1.12: 16 prompts an iteration, 64 new tokens for each, 4 minibatches, LoRA policy and value.

python -m benchmarks.peer.ppo --out benchmarks/peer/results/ppo.json
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.peer.agreement import compare_numbers
from benchmarks.peer.command import Bench, options
from benchmarks.peer.environment import PPO_TRL
from benchmarks.peer.flops import decode_bytes, ppo_flops, sizes
from benchmarks.peer.ratios import paired_ratios, summarize
from benchmarks.peer.turns import SIDES

NOTE = (
    "No response ends before its last token on either side. The peer takes the old log-probabilities from decoding, "
    "this project computes them again as the update will (one forward of the policy more in scoring). The peer holds "
    "a policy, a reward and a value model; its reference is the policy without its adapter."
)


def main(arguments: list[str] | None = None) -> None:
    parser = options(__doc__ or "", steps=2)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--prompts", type=int, default=16, help="prompts of an iteration")
    parser.add_argument("--response-tokens", type=int, default=64, help="of every response")
    parser.add_argument("--minibatches", type=int, default=4, help="optimizer steps of an iteration")
    args = parser.parse_args(arguments)
    bench = Bench("ppo", args, PPO_TRL, peer_dtype="bfloat16")
    part: dict[str, Any] = {"note": NOTE}
    common = {
        "batch_size": args.prompts,
        "response_tokens": args.response_tokens,
        "minibatches": args.minibatches,
        "kl_coef": 0.05,
        "clip": None,  # the peer's PPO does not clip gradients
    }
    part["agreement"] = compare_numbers(*_checked(bench, common, "float32"), "float32")
    part["agreement_bf16"] = compare_numbers(*_checked(bench, common, "bf16"), "bf16")
    if not args.check:
        runs = _run(bench, "rollout, scoring, update", common, args.steps + 1, check=False)
        part |= {"runs": runs, "summary": {side: summarize(runs[side]) for side in SIDES}}
        part["ratios"] = paired_ratios(runs["ours"], runs["trl"])
        _count(part, bench, args.response_tokens, args.prompts)
    bench.parts["ppo"] = part
    bench.finish()


def _checked(bench: Bench, common: dict[str, Any], precision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers of both sides for given responses, to as many prompts as a minibatch has."""
    few = {"batch_size": max(common["minibatches"], common["batch_size"] // common["minibatches"])}
    runs = _run(bench, f"check on given responses in {precision}", common | few, 1, check=True, precision=precision)
    return runs["ours"][0]["check"], runs["trl"][0]["check"]


def _run(bench: Bench, name: str, common: dict[str, Any], iterations: int, check: bool, **facts: Any) -> dict[str, Any]:
    work = bench.maker.ppo(iterations, common["batch_size"], common["response_tokens"])
    facts |= common | {"ours": work.ours, "peer": work.peer, "iterations": iterations, "check": check} | work.facts
    return bench.run(name, 1 if check else None, **facts)


def _count(part: dict[str, Any], bench: Bench, length: int, prompts: int) -> None:
    """Operations and bytes a second of the parts of an iteration, for utilisation."""
    size = sizes(bench.base)
    part["flops_per_s"], part["bytes_per_s"] = {}, {}
    for side in SIDES:
        found = {name: x["median"] for name, x in part["summary"][side].items()}
        tokens = found["tokens_per_s"] * found["step_s"]
        needed = ppo_flops(size, tokens, prompts * length)
        part["flops_per_s"][side] = {n: needed[n] / found[f"{n}_s"] for n in needed}
        part["bytes_per_s"][side] = {"rollout": decode_bytes(size, length) / found["rollout_s"]}


if __name__ == "__main__":
    main()
