"""The order of training rows: derived, resumable, and shared between processes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from rlhf_lightning.fitting.training_stream import ResumableSampler, TrainingStream


@dataclass
class Rows:
    numbers: list[int]
    step_weight: float | None = None

    @property
    def weight(self) -> float:
        return float(sum(self.numbers))


def stream(size: int, batch_size: int, accumulate: int = 1, rank: int = 0, world_size: int = 1) -> TrainingStream:
    sampler = ResumableSampler(size, batch_size, 7, rank, world_size)
    loader: DataLoader[Any] = DataLoader(
        range(size),  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=Rows,
    )
    return TrainingStream(loader, sampler, accumulate, torch.clone)


sizes = st.integers(1, 40)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(size=sizes, batch_size=st.integers(1, 9), epoch=st.integers(0, 3), data=st.data())
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(size: int, batch_size: int, epoch: int, data: Any) -> None:
    whole = stream(size, batch_size)
    whole.seek(epoch, 0)
    batches = [b.numbers for b in whole]
    assert sorted(chain.from_iterable(batches)) == list(range(size))
    assert len(batches) == len(whole)
    start = data.draw(st.integers(0, len(batches)))
    whole.seek(epoch, start)
    assert [b.numbers for b in whole] == batches[start:]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(size=sizes, batch_size=st.integers(1, 5), world_size=st.integers(2, 3))
def test_processes_share_the_batches_of_one(size: int, batch_size: int, world_size: int) -> None:
    alone = [set(b.numbers) for b in stream(size, batch_size * world_size)]
    parts = [[b.numbers for b in stream(size, batch_size, rank=r, world_size=world_size)] for r in range(world_size)]
    lengths = {len(part) for part in parts}
    assert lengths == {len(stream(size, batch_size, rank=0, world_size=world_size))}
    together = [[*chain.from_iterable(part[i] for part in parts)] for i in range(len(alone))]
    assert [set(t) for t in together][:-1] == alone[:-1]
    assert set(together[-1]) >= alone[-1]
    assert all(len(t) == len(set(t)) for t in together[:-1])
    if len(alone[-1]) >= world_size:  # else rows are repeated, so that no process is without one
        assert sorted(together[-1]) == sorted(alone[-1])


@pytest.mark.parametrize(("size", "accumulate"), [(12, 3), (10, 4), (5, 5), (7, 2)])
def test_every_batch_knows_its_step(size: int, accumulate: int) -> None:
    batches = list(stream(size, 1, accumulate))
    for first in range(0, size, accumulate):
        step = batches[first : first + accumulate]
        assert {b.step_weight for b in step} == {sum(b.weight for b in step)}


@pytest.mark.parametrize(("limit", "accumulate"), [(10, 4), (3, 4), (8, 4), (50, 4), (12, 5)])
def test_the_last_step_of_a_limited_epoch_has_no_more_than_the_limit(limit: int, accumulate: int) -> None:
    whole = stream(12, 1, accumulate)
    whole.limit = lambda: limit
    batches = list(whole)
    assert len(batches) == min(limit, 12)
    for first in range(0, len(batches), accumulate):
        step = batches[first : first + accumulate]
        assert {b.step_weight for b in step} == {sum(b.weight for b in step)}
    whole.seek(0, accumulate)
    assert [b.numbers for b in whole] == [b.numbers for b in batches[accumulate:]]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = set()
    for seed in (1, 2):
        for epoch in (0, 1):
            sampler = ResumableSampler(20, 4, seed)
            sampler.seek(epoch, 0)
            orders.add(tuple(sampler))
    assert len(orders) == 4
