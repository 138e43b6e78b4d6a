"""Responses of the policy to a batch of prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rlhf_lightning.generation import Generated, SamplingSettings, generate
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.ragged import Ragged, from_padded
from rlhf_lightning.ppo.prompts import PromptBatch
from rlhf_lightning.seeding import generator


@dataclass(frozen=True)
class Sequences:
    """The tokens of a rollout of B responses, N in all, of which M belong to responses."""

    tokens: Ragged
    """N tokens."""
    before: Tensor
    """[M], for each response token the number of the token before it, which predicts it."""
    ends: Tensor
    """[B], the number of each row's last token."""


@dataclass(frozen=True)
class Rollout:
    """Prompts (padded left) and the responses sampled to them (padded right)."""

    prompt_ids: Tensor
    """[B, P]"""
    prompt_mask: Tensor
    """Bool [B, P]"""
    response_ids: Tensor
    """[B, R]"""
    response_mask: Tensor
    """Bool [B, R]; EOS is inside."""
    truncated: Tensor
    """Bool [B]; no EOS within the length limit."""

    def rows(self, index: Tensor) -> Rollout:
        """Some of the rows, without the columns that are padding in all of them."""
        prompts, responses = self.prompt_mask[index], self.response_mask[index]
        left = self.prompt_ids.shape[1] - int(prompts.sum(1).max())
        right = max(1, int(responses.sum(1).max()))
        return Rollout(
            self.prompt_ids[index, left:],
            prompts[:, left:],
            self.response_ids[index, :right],
            responses[:, :right],
            self.truncated[index],
        )

    @property
    def tokens(self) -> Tensor:
        """Tokens of each prompt and its response; [B]."""
        return self.prompt_mask.sum(1) + self.response_mask.sum(1)

    @cached_property
    def sequences(self) -> Sequences:
        """The rows without their padding."""
        mask = torch.cat([self.prompt_mask, self.response_mask], 1)
        ids = torch.cat([self.prompt_ids, self.response_ids], 1)
        number = (mask.flatten().cumsum(0) - 1).view(mask.shape)
        width = self.prompt_ids.shape[1]
        # Numbers stand still in the padding, so the last column has each row's last.
        return Sequences(from_padded(ids, mask), number[:, width - 1 : -1][self.response_mask], number[:, -1])

    def __len__(self) -> int:
        return len(self.prompt_ids)


def sample_rollout(
    backbone: Backbone,
    adapter: str | None,
    batch: PromptBatch,
    settings: SamplingSettings,
    seed: tuple[int, str, int, int],
    eos_id: int,
    pad_id: int,
    on_token: Callable[[int], None] | None = None,
) -> Rollout:
    """Sample one response per prompt from a role.

    Args:
        backbone: Where the role's weights are.
        adapter: Its adapter; None is the base.
        batch: Prompts, on the model's device.
        settings: Length limit, temperature, decoding batch.
        seed: (seed, purpose, ...) that the random numbers are derived from.
        eos_id: Ends a response.
        pad_id: Padding.
        on_token: Progress callback.
    """
    size = len(batch.prompt_ids)
    # One table for all processes, of which each takes its rows.
    shape = (max(batch.rows) + 1, settings.max_response_tokens)
    table = torch.rand(shape, generator=generator(*seed), dtype=torch.float32)
    uniforms = table[batch.rows].to(batch.prompt_ids.device)
    parts: list[Generated] = []
    with backbone.merged(adapter):
        for rows in torch.arange(size).split(settings.batch_size):
            width = batch.prompt_ids.shape[1] - int(batch.prompt_mask[rows].sum(1).max())
            parts.append(
                generate(
                    backbone.lm,
                    batch.prompt_ids[rows, width:],
                    batch.prompt_mask[rows, width:],
                    settings,
                    uniforms[rows],
                    eos_id,
                    pad_id,
                    on_token,
                )
            )
    widest = max(p.response_ids.shape[1] for p in parts)
    return Rollout(
        batch.prompt_ids,
        batch.prompt_mask,
        torch.cat([_widen(p.response_ids, widest, pad_id) for p in parts]),
        torch.cat([_widen(p.response_mask, widest, False) for p in parts]),
        torch.cat([p.truncated for p in parts]),
    )


def _widen(x: Tensor, width: int, value: int | bool) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]), value=value)
