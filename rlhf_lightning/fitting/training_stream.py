"""Training batches in a derived order, from any position, each knowing its whole optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from rlhf_lightning.seeding import generator


class ResumableSampler(Sampler[int]):
    """Row numbers of one process, in an order that depends on (seed, epoch) alone.

    Processes share every batch of `batch_size * world_size` rows, so that two of them with half the batch size make
    the steps that one makes. An epoch's last batch may be smaller; with fewer rows than processes, rows are repeated.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        row: Callable[[int, int], int] = lambda epoch, number: number,
    ) -> None:
        """
        Args:
            size: Rows of the data.
            batch_size: Rows of a batch, on each process.
            seed: Seed of the order.
            rank: Number of this process.
            world_size: Number of processes.
            row: The row of the data from epoch and number; only where epochs do not all have the same rows.
        """
        self._row = row
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0

    def seek(self, epoch: int, batches: int) -> None:
        """Begin the next pass in `epoch`, after so many batches."""
        self.epoch, self.start = epoch, batches

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.size, generator=generator(self.seed, "order", self.epoch)).tolist()
        together = self.batch_size * self.world_size
        for first in range(self.start * together, self.size, together):
            rows = order[first : first + together]
            padded = [rows[i % len(rows)] for i in range(max(len(rows), self.world_size))]
            for number in padded[self.rank :: self.world_size]:
                yield self._row(self.epoch, number)

    def __len__(self) -> int:
        """Rows of a whole epoch on this process."""
        whole, rest = divmod(self.size, self.batch_size * self.world_size)
        rest = max(rest, self.world_size) if rest else 0
        return whole * self.batch_size + len(range(self.rank, rest, self.world_size))


class TrainingStream:
    """Batches of an epoch. Those of one optimizer step are read together, to know what the step amounts to.

    A loss is then its batch's share of a mean over the whole step, so that neither accumulation nor the number of
    processes changes it. Without that, short and long micro-batches would weigh the same.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        sampler: ResumableSampler,
        accumulate: int,
        total: Callable[[Tensor], Tensor],
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """
        Args:
            loader: Over the data with `sampler`; its batches have `weight` (float) and `step_weight`, which is set.
            sampler: The order.
            accumulate: Batches of an optimizer step.
            total: Sums a float64 scalar over all processes.
            limit: Batches after which an epoch ends early (`trainer.limit_train_batches`), known when one begins.
        """
        self.loader, self.sampler, self.accumulate, self.total = loader, sampler, accumulate, total
        self.limit = limit

    def seek(self, epoch: int, batches: int) -> None:
        """Where the next iteration begins; `batches` is a multiple of `accumulate`, or an epoch's end."""
        self.sampler.seek(epoch, batches)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-len(self.sampler) // self.sampler.batch_size)

    def __iter__(self) -> Iterator[Any]:
        left = int(min(len(self), self.limit())) - self.sampler.start
        if left <= 0:
            return
        batches = islice(self.loader, left)  # what comes after is in no step: the last one may have fewer
        while step := list(islice(batches, self.accumulate)):
            weight = self._step_weight(step)
            for batch in step:
                batch.step_weight = weight
                yield batch

    def _step_weight(self, step: Sequence[Any]) -> float:
        own = torch.tensor(sum(batch.weight for batch in step), dtype=torch.float64)
        return float(self.total(own))
