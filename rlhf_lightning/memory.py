"""What a user can say about memory, and the splitting of batches that follows from it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lightning.bounds import check_number

FEW_PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""On a CPU oneDNN and its binding in PyTorch each keep what they prepared for the last 1,024 shapes of 16-bit products.
Without padding nearly every forward has a shape of its own, and a process grew by 15 MB a step; a model's layers share
some thirty shapes, so 128 lose no time."""


def keep_few_products() -> None:
    """Limit what a CPU's products keep in memory, unless the environment says how much.

    They read the environment at the first product, so call this before any.
    """
    for name, value in FEW_PRODUCTS.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class MemorySettings:
    """Limits of memory; neither changes a result but by the rounding of sums."""

    micro_batch_tokens: int = 4096
    """Tokens (prompts included, padding does not exist) of one forward and backward. A batch that has more is
    computed in parts, so memory does not grow with the batch; a single longer sequence goes alone."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input for the backward and compute the rest again: a third more time for a fraction of
    the memory."""

    def __post_init__(self) -> None:
        check_number("model.init_args.memory.micro_batch_tokens", self.micro_batch_tokens, at_least=1)


def split_by_tokens(tokens: Tensor, limit: int) -> list[Tensor]:
    """Row numbers in the given order, cut into parts of at most `limit` tokens and at least one row each.

    Args:
        tokens: [B], tokens of each row.
        limit: Most tokens of a part.

    >>> [part.tolist() for part in split_by_tokens(torch.tensor([3, 2, 4, 9, 1]), 5)]
    [[0, 1], [2], [3], [4]]
    """
    parts: list[list[int]] = [[]]
    held = 0
    for row, count in enumerate(tokens.tolist()):
        if parts[-1] and held + count > limit:
            parts.append([])
            held = 0
        parts[-1].append(row)
        held += count
    return [torch.tensor(part, device=tokens.device, dtype=torch.long) for part in parts]
