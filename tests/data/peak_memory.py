"""A process of its own that reads a data file as a stage does, and prints how much its peak memory grew.

Usage: python -m tests.data.peak_memory SMALL_FILE FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rlhf_lightning.sft.data import DemonstrationDataModule


class WordTemplate:
    """One token a word, for speed: a real tokenizer takes minutes for what is read here in seconds."""

    def encode_conversation(self, messages: Any) -> tuple[list[int], list[bool]]:
        ids = [len(word) for m in messages for word in m.content.split()]
        return ids, [i > 0 for i in range(len(ids))]


def read(file: str, val: str) -> DemonstrationDataModule:
    data = DemonstrationDataModule(file, val, max_response_tokens=4000, packing=True)
    module: Any = SimpleNamespace(template=WordTemplate(), seed=0, limits=SimpleNamespace(check=lambda *_: None))
    data.trainer = SimpleNamespace(lightning_module=module)  # type: ignore[assignment]
    data.setup("fit")
    return data


def resident(which: str) -> int:
    """Bytes in memory: now (VmRSS), or at most since the last reset (VmHWM)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(which)) * 1024


if __name__ == "__main__":
    read(sys.argv[1], sys.argv[1])  # what libraries load on first use is not the file's
    # The highest so far is that of the imports (`ru_maxrss` even has the parent's), and would hide the growth.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    data = read(sys.argv[2], sys.argv[1])
    for row in range(0, len(data.items["train"]), 7):
        data.items["train"][row]
    print(resident("VmHWM") - before)
