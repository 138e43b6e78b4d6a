"""Several short examples in one row, none of which sees another."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_lightning.data.item_store import ItemStore, pack_integers, unpack_integers
from rlhf_lightning.datamodule import pad
from rlhf_lightning.memory import split_by_tokens
from rlhf_lightning.models.ragged import Ragged, from_lengths


@dataclass(frozen=True)
class SFTExample:
    """A conversation as tokens."""

    ids: list[int]
    is_response: list[bool]
    """True where the token belongs to a response, EOS included: the tokens the loss is on."""

    def packed(self) -> bytes:
        """One integer a token: the id, or for a token of a response its bitwise complement, which is negative."""
        return pack_integers([~t if flag else t for t, flag in zip(self.ids, self.is_response, strict=True)])

    @classmethod
    def unpacked(cls, data: bytes) -> SFTExample:
        values = unpack_integers(data)
        return cls([~v if v < 0 else v for v in values], [v < 0 for v in values])

    def lengths(self) -> tuple[int, list[int]]:
        """Tokens that carry no loss, and those that do."""
        response = sum(self.is_response)
        return len(self.ids) - response, [response]


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
    def tokens(self) -> Tensor:
        """Tokens of each row, padding not counted; [B]."""
        return (self.segments > 0).sum(1)

    def ragged(self) -> tuple[Ragged, Tensor]:
        """The examples as sequences of their own, and the numbers of the tokens among theirs that are targets."""
        valid = self.segments > 0
        # A number for each example of the batch; examples of a row stand side by side.
        rows = torch.arange(len(valid), device=valid.device).unsqueeze(1) * (self.segments.max() + 1)
        lengths = (rows + self.segments)[valid].unique_consecutive(return_counts=True)[1]
        return from_lengths(self.input_ids[valid], lengths), self.loss_mask[valid].nonzero().squeeze(1)

    def parts(self, max_tokens: int) -> Iterator[SFTBatch]:
        """The batch in pieces of at most `max_tokens`, and at least one row; their losses are shares of its own."""
        for rows in split_by_tokens(self.tokens, max_tokens):
            width = int((self.segments[rows] > 0).sum(1).max())
            yield SFTBatch(
                self.input_ids[rows, :width],
                self.loss_mask[rows, :width],
                self.segments[rows, :width],
                self.step_weight or self.weight,
            )

    def to(self, device: torch.device) -> SFTBatch:
        return SFTBatch(
            self.input_ids.to(device), self.loss_mask.to(device), self.segments.to(device), self.step_weight
        )

    def row(self, index: int) -> SFTBatch:
        """One row alone."""
        own = slice(index, index + 1)
        return SFTBatch(self.input_ids[own], self.loss_mask[own], self.segments[own])


def token_counts(examples: ItemStore[SFTExample]) -> NDArray[np.int64]:
    """Tokens of each example, [N], without reading them."""
    return examples.sizes // 4


def pack(lengths: NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
    """Best-fit-decreasing bins of at most `max_tokens`; within 22 % of the fewest bins possible.

    Args:
        lengths: Tokens of each example, [N], each at most `max_tokens`.
        max_tokens: Tokens that a bin holds.

    Returns:
        The bin of each example, [N], numbered from 0.

    >>> pack(np.array([1, 3, 2, 2]), 4).tolist()  # 3 + 1 and 2 + 2; the longest are placed first
    [0, 0, 1, 1]
    >>> pack(np.array([7, 5, 3]), 10).tolist()  # 3 goes where it leaves least room
    [0, 1, 0]
    """
    bins = np.empty(len(lengths), dtype=np.int64)
    with_room = [array("q") for _ in range(max_tokens + 1)]  # bins by the number of tokens they still take
    rooms = 0  # bit r is set where with_room[r] is not empty: the best fit is the lowest set bit from `size` on
    count = 0
    for i in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[i])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            bins[i] = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, bins[i], count = max_tokens, count, count + 1
        with_room[room - size].append(int(bins[i]))
        rooms |= 1 << (room - size)
    return bins


class PackedRows(Sequence[list[SFTExample]]):
    """Rows of one or several examples each, read when they are asked for."""

    def __init__(self, examples: Sequence[SFTExample], bins: NDArray[np.int64]) -> None:
        """
        Args:
            examples: N examples.
            bins: The row that each is in, [N]; the rows are 0, 1, ... without gaps.
        """
        self._examples = examples
        self._order = np.argsort(bins, kind="stable")
        self._ends = np.cumsum(np.bincount(bins))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> list[SFTExample]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[SFTExample]]: ...
    def __getitem__(self, index: int | slice) -> list[SFTExample] | list[list[SFTExample]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        start = self._ends[row - 1] if row else 0
        return [self._examples[int(i)] for i in self._order[start : self._ends[row]]]


def collate(rows: Sequence[Sequence[SFTExample]], pad_id: int) -> SFTBatch:
    """Rows of one or several examples each, to a batch.

    >>> batch = collate([[SFTExample([5, 6], [True, True]), SFTExample([7, 8], [False, True])]], pad_id=0)
    >>> batch.input_ids.tolist(), batch.loss_mask.tolist()
    ([[5, 6, 7, 8]], [[False, True, False, True]])
    >>> batch.segments.tolist(), batch.ragged()[0].positions.tolist()
    ([[1, 1, 2, 2]], [0, 1, 0, 1])
    """
    ids = [[t for e in row for t in e.ids] for row in rows]
    # The first token of an example has nothing of its own before it, so it is never a target.
    targets = [[flag and i > 0 for e in row for i, flag in enumerate(e.is_response)] for row in rows]
    segments = [[n for n, e in enumerate(row, 1) for _ in e.ids] for row in rows]
    return SFTBatch(pad(ids, pad_id), pad(targets, False), pad(segments, 0))
