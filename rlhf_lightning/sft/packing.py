"""Several short examples in one row, none of which sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lightning.datamodule import pad


@dataclass(frozen=True)
class SFTExample:
    """A conversation as tokens."""

    ids: list[int]
    is_response: list[bool]
    """True where the token belongs to a response, EOS included: the tokens the loss is on."""


@dataclass  # not frozen: Lightning rebuilds batches field by field under 16-bit precision
class SFTBatch:
    """Rows padded right, each holding one example or several packed ones."""

    input_ids: Tensor
    """[B, T]"""
    loss_mask: Tensor
    """Bool [B, T]; True at column t where token t is a target, predicted from column t-1."""
    segments: Tensor
    """[B, T]; number of the example within its row, from 1; 0 = padding."""
    step_weight: float | None = None
    """Target tokens of the whole optimizer step; None where the batch stands alone."""

    @property
    def weight(self) -> float:
        """Target tokens of this batch."""
        return float(self.loss_mask[:, 1:].sum())

    @property
    def attention_mask(self) -> Tensor:
        """Bool [B, T] for unpacked rows; block-causal bool [B, 1, T, T] for packed ones."""
        valid = self.segments > 0
        if not self.packed:
            return valid
        width = self.segments.shape[1]
        same = self.segments.unsqueeze(1) == self.segments.unsqueeze(2)
        causal = torch.ones(width, width, dtype=torch.bool, device=same.device).tril()
        # Padding looks at itself: a row of a softmax with nothing to look at would be NaN.
        return (same & causal).unsqueeze(1)

    @property
    def packed(self) -> bool:
        return bool((self.segments > 1).any())

    @property
    def positions(self) -> Tensor:
        """[B, T] positions that start again at 0 in every example."""
        index = torch.arange(self.segments.shape[1], device=self.segments.device).expand_as(self.segments)
        starts = torch.ones_like(self.segments, dtype=torch.bool)
        starts[:, 1:] = self.segments[:, 1:] != self.segments[:, :-1]
        return index - torch.where(starts, index, 0).cummax(1).values

    def to(self, device: torch.device) -> SFTBatch:
        return SFTBatch(
            self.input_ids.to(device), self.loss_mask.to(device), self.segments.to(device), self.step_weight
        )

    def row(self, index: int) -> SFTBatch:
        """One row alone."""
        own = slice(index, index + 1)
        return SFTBatch(self.input_ids[own], self.loss_mask[own], self.segments[own])


def pack(examples: Sequence[SFTExample], max_tokens: int) -> list[list[SFTExample]]:
    """First-fit-decreasing bins of at most `max_tokens`; within 22 % of the fewest rows possible.

    >>> examples = [SFTExample([7] * n, [True] * n) for n in (1, 3, 2, 2)]
    >>> [[len(example.ids) for example in row] for row in pack(examples, 4)]
    [[3, 1], [2, 2]]
    """
    bins: list[list[SFTExample]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        size = len(example.ids)
        spot = next((i for i, free in enumerate(room) if free >= size), None)
        if spot is None:
            bins.append([example])
            room.append(max_tokens - size)
        else:
            bins[spot].append(example)
            room[spot] -= size
    return bins


def collate(rows: Sequence[Sequence[SFTExample]], pad_id: int) -> SFTBatch:
    """Rows of one or several examples each, to a batch.

    >>> batch = collate([[SFTExample([5, 6], [True, True]), SFTExample([7, 8], [False, True])]], pad_id=0)
    >>> batch.input_ids.tolist(), batch.loss_mask.tolist()
    ([[5, 6, 7, 8]], [[False, True, False, True]])
    >>> batch.segments.tolist(), batch.positions.tolist()
    ([[1, 1, 2, 2]], [[0, 1, 0, 1]])
    """
    ids = [[t for e in row for t in e.ids] for row in rows]
    # The first token of an example has nothing of its own before it, so it is never a target.
    targets = [[flag and i > 0 for e in row for i, flag in enumerate(e.is_response)] for row in rows]
    segments = [[n for n, e in enumerate(row, 1) for _ in e.ids] for row in rows]
    return SFTBatch(pad(ids, pad_id), pad(targets, False), pad(segments, 0))
