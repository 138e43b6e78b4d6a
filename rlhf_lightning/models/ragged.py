"""Sequences of different lengths as one row of tokens: nothing is padded, and a shared prompt stands there once.

Every layer of a transformer but attention looks at one token at a time, so it does not matter to it where a
sequence ends. Attention is told by a `RaggedLayout`, block by block, which tokens look at which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """B rows of attention that are computed together.

    The last `width` columns of a row are queries, and all its columns are keys; a query sees the keys up to its own
    column. Padding is on the right, where no valid query looks.
    """

    keys: Tensor
    """Token numbers [B, K]; any number where not valid."""
    valid: Tensor
    """Bool [B, K]"""
    width: int
    """Q, the number of query columns, 1 ≤ Q ≤ K."""

    @property
    def queries(self) -> Tensor:
        """Token numbers [B, Q]."""
        return self.keys[:, self.keys.shape[1] - self.width :]

    @property
    def query_valid(self) -> Tensor:
        """Bool [B, Q]"""
        return self.valid[:, self.valid.shape[1] - self.width :]

    @property
    def square(self) -> bool:
        """Every key is a query too, as in a plain sequence."""
        return self.width == self.keys.shape[1]

    @cached_property
    def visible(self) -> Tensor:
        """Bool [Q, K]; True where a query sees a key."""
        ones = torch.ones(self.width, self.keys.shape[1], dtype=torch.bool, device=self.keys.device)
        return ones.tril(self.keys.shape[1] - self.width)

    @cached_property
    def bias(self) -> Tensor:
        """float32 [Q, K]: 0 where a query sees a key, else -inf."""
        return torch.zeros(self.visible.shape, device=self.keys.device).masked_fill_(~self.visible, float("-inf"))


@dataclass(frozen=True)
class RaggedLayout:
    """Which of N tokens look at which. Every token is a query of exactly one block."""

    blocks: list[Block]
    places: Tensor
    """[N]: where a token's output is, among the query columns (padding included) of all blocks one after another."""
    shared: bool
    """Some tokens are keys of several rows: prompts that several responses share."""
    products: bool = True
    """Short rows may be attended to by matrix products, which in 16 bit round otherwise than PyTorch's kernel."""


@dataclass(frozen=True)
class Ragged:
    """N tokens of several sequences."""

    ids: Tensor
    """[N]"""
    positions: Tensor
    """[N], counted from 0 in each sequence."""
    layout: RaggedLayout

    def __len__(self) -> int:
        return len(self.ids)

    def repeated(self, times: int) -> Ragged:
        """The same sequences several times over, one copy of all N tokens after another."""
        if times == 1:
            return self
        blocks = []
        for block in self.layout.blocks:
            keys = torch.cat([block.keys + copy * len(self) for copy in range(times)])
            blocks.append(Block(keys, block.valid.repeat(times, 1), block.width))
        layout = replace(_layout(blocks, times * len(self), self.layout.shared), products=self.layout.products)
        return Ragged(self.ids.repeat(times), self.positions.repeat(times), layout)


def from_lengths(ids: Tensor, lengths: Tensor) -> Ragged:
    """Sequences that stand one after another.

    Args:
        ids: [N], all tokens.
        lengths: [B], all at least 1; they sum to N.
    """
    starts = lengths.cumsum(0) - lengths
    positions = torch.arange(len(ids), device=ids.device) - starts.repeat_interleave(lengths)
    order = lengths.argsort(stable=True)
    blocks = [_block(starts[rows], lengths[rows]) for rows in _buckets(lengths[order], order)]
    return Ragged(ids, positions, _layout(blocks, len(ids), shared=False))


def from_padded(ids: Tensor, mask: Tensor) -> Ragged:
    """The valid tokens of rows [B, T] that are padded on either side or both; rows without a valid token vanish."""
    lengths = mask.sum(1)
    return from_lengths(ids[mask], lengths[lengths > 0])


def from_prompts(
    prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor, prompt: Tensor
) -> Ragged:
    """Prompts, each once, and after them the responses, each of which sees its own prompt.

    Args:
        prompt_ids: [B, P].
        prompt_mask: Bool [B, P], at least one token a row.
        response_ids: [N, R], padded right.
        response_mask: Bool [N, R], at least one token a row.
        prompt: [N], the prompt of each response, in ascending order.
    """
    prompts = from_padded(prompt_ids, prompt_mask)
    before, after = prompt_mask.sum(1), response_mask.sum(1)
    starts = before.cumsum(0) - before
    own = len(prompts) + after.cumsum(0) - after
    blocks = list(prompts.layout.blocks)
    counts = torch.bincount(prompt, minlength=len(prompt_ids)).tolist()
    for b, rows in enumerate(torch.arange(len(prompt), device=prompt.device).split(counts)):
        if len(rows):
            head = starts[b] + torch.arange(int(before[b]), device=prompt.device)
            tail = _block(own[rows], after[rows])
            keys = torch.cat([head.expand(len(rows), -1), tail.keys], 1)
            valid = torch.cat([torch.ones_like(keys[:, : len(head)], dtype=torch.bool), tail.valid], 1)
            blocks.append(Block(keys, valid, tail.width))
    ids = torch.cat([prompts.ids, response_ids[response_mask]])
    offsets = (response_mask.long().cumsum(1) - 1 + before[prompt].unsqueeze(1))[response_mask]
    return Ragged(ids, torch.cat([prompts.positions, offsets]), _layout(blocks, len(ids), shared=True))


def _block(starts: Tensor, lengths: Tensor) -> Block:
    columns = torch.arange(int(lengths.max()), device=starts.device)
    valid = columns < lengths.unsqueeze(1)
    return Block(torch.where(valid, starts.unsqueeze(1) + columns, 0), valid, len(columns))


def _buckets(lengths: Tensor, order: Tensor, slack: float = 1.25) -> Iterator[Tensor]:
    """Rows of similar length together: attention inside a block is padded to its longest row.

    Short rows share one: a block costs some forty small operations a layer, which is more than their padding does.
    """
    start, values = 0, lengths.tolist()
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] > slack * values[start] + 64:
            yield order[start:end]
            start = end


def _layout(blocks: list[Block], size: int, shared: bool) -> RaggedLayout:
    queries = torch.cat([b.queries.flatten() for b in blocks])
    valid = torch.cat([b.query_valid.flatten() for b in blocks])
    places = torch.empty(size, dtype=torch.long, device=queries.device)
    columns = valid.nonzero().squeeze(1)
    places[queries[columns]] = columns
    return RaggedLayout(blocks, places, shared)
