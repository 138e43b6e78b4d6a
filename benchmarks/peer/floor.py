"""What this machine can do: bytes read a second, and products of matrices; a floor under both sides' times.

python -m benchmarks.peer.floor [cpu|cuda]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

REPETITIONS = 7


def measure_floor(device: str) -> dict[str, Any]:
    """Measure in a process of its own, with the threads that the runs have."""
    command = [sys.executable, "-m", "benchmarks.peer.floor", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def best_seconds(work: Callable[[], object], device: str) -> float:
    """Fewest seconds of several repetitions: what the machine can do, not what it did while disturbed."""
    seconds = []
    for _ in range(REPETITIONS + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def matrix_rate(rows: int, inner: int, columns: int, dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a [rows, inner] by [inner, columns] product, weights as a linear layer holds them."""
    x = torch.randn(rows, inner, dtype=dtype, device=device)
    weight = torch.randn(columns, inner, dtype=dtype, device=device)
    return 2.0 * rows * inner * columns / best_seconds(lambda: torch.nn.functional.linear(x, weight), device)


def floor(device: str) -> dict[str, Any]:
    """All figures of the machine."""
    gpu = device == "cuda"
    numbers = torch.ones(2**28 if gpu else 2**27, device=device)  # 1 GiB or 512 MiB: no cache holds it
    target = torch.empty_like(numbers)
    size = numbers.numel() * 4
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "read_gb_s": size / best_seconds(numbers.sum, device) / 1e9,
        "copy_gb_s": 2 * size / best_seconds(lambda: target.copy_(numbers), device) / 1e9,
    }
    if not gpu:
        found["fresh_memory_gb_s"] = size / best_seconds(lambda: torch.empty(2**27).fill_(1.0), device) / 1e9
    large = 8192 if gpu else 2048
    shapes = {"large": (large, large, large), "layer": (1000, 576, 1536), "decode": (16, 576, 1536)}
    for name, (rows, inner, columns) in shapes.items():
        for dtype, precision in (("float32", "highest"), ("float32", "medium"), ("bfloat16", "highest")):
            torch.set_float32_matmul_precision(precision)
            key = f"{name}_{dtype}" + ("_medium" if precision == "medium" else "")
            found[f"{key}_gflop_s"] = matrix_rate(rows, inner, columns, getattr(torch, dtype), device) / 1e9
    return found


def utilisation(part: dict[str, Any], found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Shares of the floor: needed operations of the best bf16 rate, needed bytes of the read bandwidth.

    Args:
        part: `flops_per_s` and `bytes_per_s` by side: a number, or a number for each part of a step.
        found: From `floor`.
    """
    peak = max(v for name, v in found.items() if "bfloat16" in name) * 1e9
    shares: dict[str, dict[str, float]] = {}
    for key, what, limit in (("flops_per_s", "operations", peak), ("bytes_per_s", "bytes", found["read_gb_s"] * 1e9)):
        for side, rate in part.get(key, {}).items():
            for name, value in (rate if isinstance(rate, dict) else {"step": rate}).items():
                shares.setdefault(f"{what} of {name}", {})[side] = value / limit
    return shares


if __name__ == "__main__":
    print(json.dumps(floor(sys.argv[1] if len(sys.argv) > 1 else "cpu")))
