"""Seeds that are derived, never captured: a resumed run draws what the uninterrupted one would have drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for one use of randomness, independent of every other use.

    Args:
        seed: The run's `seed_everything`.
        purpose: What the randomness is for, such as "rollout" or "minibatches".
        indices: Position of this use: iteration, rank, row, ... Order matters.

    >>> derive_seed(1, "rollout", 0) == derive_seed(1, "rollout", 0)
    True
    >>> derive_seed(1, "rollout", 0) == derive_seed(1, "rollout", 1)
    False
    """
    text = "/".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator seeded with `derive_seed`; CPU so that a run draws the same numbers on every device."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *indices))


@contextmanager
def seeded(seed: int, purpose: str, *indices: int) -> Iterator[None]:
    """Run a block under a derived global torch seed and put the previous generator states back afterwards."""
    with seeded_exactly(derive_seed(seed, purpose, *indices)):
        yield


@contextmanager
def seeded_exactly(seed: int) -> Iterator[None]:
    """The same with a seed as it is."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
