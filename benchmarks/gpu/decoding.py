"""Decoding alone: milliseconds a token, and the share of the memory bandwidth that its necessary reads take.

python -m benchmarks.gpu.decoding --shapes 135m 1b --batch 16 64 256 --out benchmarks/gpu/results/decoding.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.results import provenance, write
from benchmarks.gpu.shapes import SHAPES, build
from benchmarks.peer.floor import measure_floor
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.ragged_support import enable_ragged
from rlhf_lightning.rollouts.engine import Draws, Request
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings

NO_TOKEN = -1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shapes", nargs="+", choices=list(SHAPES), default=["135m", "1b"])
    add("--batch", nargs="+", type=int, default=[16, 64, 256], help="prompts decoded together")
    add("--prompt-tokens", type=int, default=128)
    add("--response-tokens", type=int, default=256)
    add("--repetitions", type=int, default=3)
    add("--graphs-only", action="store_true", help="leave decoding without CUDA graphs out")
    add("--device", choices=["cpu", "cuda"], default="cuda")
    add("--out", type=Path)
    args = parser.parse_args()
    floor = measure_floor(args.device)
    rows = []
    for shape in args.shapes:
        lm = build(shape, args.device)
        enable_ragged(lm)
        backbone = Backbone(lm)
        for batch in args.batch:
            modes = (True,) if args.graphs_only else (True, False)
            for graphs in modes if args.device == "cuda" else (False,):
                rows.append(measure(backbone, shape, batch, graphs, args) | {"graphs": graphs})
                rows[-1]["share_of_bandwidth"] = rows[-1]["gb_s"] / floor["read_gb_s"]
                print(rows[-1], flush=True)
    result = provenance(args.device) | {
        "prompt_tokens": args.prompt_tokens,
        "response_tokens": args.response_tokens,
        "floor": floor,
        "rows": rows,
    }
    write(result, table(rows), args.out)


def measure(backbone: Backbone, shape: str, batch: int, graphs: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the fastest repetition, and what had to be read in it."""
    ids = torch.randint(3, 259, (batch, args.prompt_tokens), device=args.device)
    request = Request(
        ids, torch.ones_like(ids, dtype=torch.bool), Draws((0, "decoding", 0, 0), list(range(batch))), NO_TOKEN, 0
    )
    settings = SamplingSettings(max_response_tokens=args.response_tokens, batch_size=batch, cuda_graphs=graphs)
    engine, seconds = NativeEngine(), []
    for _ in range(args.repetitions + 1):
        _wait(args.device)
        start = time.perf_counter()
        engine.generate(backbone, None, request, settings)
        _wait(args.device)
        seconds.append(time.perf_counter() - start)
    best = min(seconds[1:])
    read = necessary_bytes(backbone.lm, batch, args.prompt_tokens, args.response_tokens)
    return {
        "shape": shape,
        "batch": batch,
        "seconds": best,
        "ms_per_token": best / args.response_tokens * 1e3,
        "tokens_per_s": batch * args.response_tokens / best,
        "gb_s": read / best / 1e9,
    }


def necessary_bytes(lm: Any, batch: int, prompt: int, response: int) -> float:
    """What the decoding of so many tokens cannot do without: every weight once a token, and all keys and values.

    The prompts' own forward is left out of the bytes, and not out of the time.
    """
    weights = {p.data_ptr(): p.numel() * p.element_size() for p in lm.parameters()}
    embedding = lm.get_input_embeddings().weight
    if embedding.data_ptr() != lm.get_output_embeddings().weight.data_ptr():
        weights.pop(embedding.data_ptr())  # looked up, not read
    config = lm.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * embedding.element_size()
    kept = sum(prompt + i for i in range(response))
    return float(sum(weights.values()) * response + per_token * batch * kept)


def table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            r["shape"],
            str(r["batch"]),
            "yes" if r["graphs"] else "no",
            f"{r['ms_per_token']:.2f}",
            f"{r['tokens_per_s']:.0f}",
            f"{r['gb_s']:.0f}",
            f"{r['share_of_bandwidth']:.1%}",
        ]
        for r in rows
    ]
    return markdown_table(
        ["model", "batch", "CUDA graphs", "ms a token", "tokens / s", "GB / s", "of bandwidth"], cells
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
