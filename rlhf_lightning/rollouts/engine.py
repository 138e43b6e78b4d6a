"""What every rollout engine is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.seeding import derive_seed, generator


@dataclass(frozen=True)
class Draws:
    """The random numbers of a rollout, derived from a key and from the rows' numbers, never from the batch."""

    key: tuple[int, str, int, int]
    """(seed, purpose, ...) as `seeding.generator` takes them."""
    rows: list[int]
    """Number of each row, over all processes."""

    def uniforms(self, count: int) -> Tensor:
        """[B, count] numbers in [0, 1), on the CPU: one table for all processes, of which each takes its rows."""
        shape = (max(self.rows) + 1, count)
        return torch.rand(shape, generator=generator(*self.key), dtype=torch.float32)[self.rows]

    def row_seed(self, index: int) -> int:
        """A seed for one row alone."""
        return derive_seed(*self.key, self.rows[index])

    def batch_seed(self, indices: Sequence[int]) -> int:
        """A seed for rows that share a stream of random numbers: it depends on which rows they are."""
        return derive_seed(*self.key, *(self.rows[i] for i in indices))


@dataclass(frozen=True)
class Request:
    """Prompts to answer, once each. Rows with the same prompt are samples of it."""

    prompt_ids: Tensor
    """[B, P], padded left, on the model's device."""
    prompt_mask: Tensor
    """Bool [B, P]"""
    draws: Draws
    eos_id: int
    """Ends a response and belongs to it."""
    pad_id: int
    """Written after the end."""
    stops: Tensor | None = None
    """Bool [V]: tokens after which a response is not continued, as after EOS. Only the native engine reads it: what
    comes after a stop is cut off by whoever asked, so an engine that goes on wastes time and changes nothing."""

    def in_order_of_length(self, batch_size: int) -> list[list[int]]:
        """Row indices in batches, short prompts first and equal prompts together."""
        lengths = self.prompt_mask.sum(1).tolist()
        tokens = self.prompt_ids.tolist()
        order = sorted(range(len(tokens)), key=lambda i: (lengths[i], tokens[i][len(tokens[i]) - lengths[i] :]))
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def trimmed(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask of some rows, without the columns that are padding in all of them."""
        index = torch.as_tensor(rows, device=self.prompt_ids.device)
        mask = self.prompt_mask[index]
        left = mask.shape[1] - int(mask.sum(1).max())
        return self.prompt_ids[index, left:], mask[:, left:]


@dataclass(frozen=True)
class Generated:
    """Sampled responses, padded right."""

    response_ids: Tensor
    """[B, R]"""
    response_mask: Tensor
    """Bool [B, R]; EOS is inside."""
    logprobs: Tensor
    """Float [B, R] nats: what the engine gave each sampled token, at the sampling temperature; 0 where masked."""
    truncated: Tensor
    """Bool [B]; stopped by the length limit, without EOS."""

    @classmethod
    def in_rows(cls, size: int, parts: Sequence[tuple[Sequence[int], Generated]], pad_id: int) -> Generated:
        """Batches put together, each row where it belongs.

        Args:
            size: Number of rows, B.
            parts: (row indices, their responses); every row once.
            pad_id: Fills up shorter batches.
        """
        width = max(part.response_ids.shape[1] for _, part in parts)
        like = parts[0][1]
        out = cls(
            like.response_ids.new_full((size, width), pad_id),
            like.response_mask.new_zeros(size, width),
            like.logprobs.new_zeros(size, width),
            like.truncated.new_zeros(size),
        )
        for rows, part in parts:
            own, index = part.response_ids.shape[1], torch.as_tensor(rows, device=out.truncated.device)
            out.response_ids[index, :own] = part.response_ids
            out.response_mask[index, :own] = part.response_mask
            out.logprobs[index, :own] = part.logprobs
            out.truncated[index] = part.truncated
        return out


class RolloutEngine(Protocol):
    """Samples responses from the weights of a role.

    All engines sample the same distribution: softmax of logits / temperature, no top-k, no top-p, no penalties;
    a response ends with EOS, which belongs to it, or is cut after `max_response_tokens`. Within the first
    `min_response_tokens` EOS has no probability.
    """

    def generate(
        self,
        backbone: Backbone,
        adapter: str | None,
        request: Request,
        settings: SamplingSettings,
        on_token: Callable[[int], None] | None = None,
    ) -> Generated:
        """One response per row.

        Args:
            backbone: Where the role's weights are.
            adapter: Its adapter; None is the base.
            request: Prompts and random numbers.
            settings: Length limit, temperature, decoding batch.
            on_token: Called now and then with the number of tokens sampled since, for a progress bar.
        """
        ...
