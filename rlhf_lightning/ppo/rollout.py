"""Responses of the policy to a batch of prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.ragged import Ragged, from_padded
from rlhf_lightning.ppo.prompts import PromptBatch
from rlhf_lightning.rollouts.engine import Draws, Request, RolloutEngine
from rlhf_lightning.rollouts.settings import SamplingSettings


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
    sampler_logprobs: Tensor
    """[B, R] nats, as the engine that sampled saw them: only to be compared with, never trained on."""

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
            self.sampler_logprobs[index, :right],
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
    engine: RolloutEngine,
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
        engine: What decodes.
        backbone: Where the role's weights are.
        adapter: Its adapter; None is the base.
        batch: Prompts, on the model's device.
        settings: Length limit, temperature, decoding batch.
        seed: (seed, purpose, ...) that the random numbers are derived from.
        eos_id: Ends a response.
        pad_id: Padding.
        on_token: Progress callback.
    """
    request = Request(batch.prompt_ids, batch.prompt_mask, Draws(seed, batch.rows), eos_id, pad_id)
    out = engine.generate(backbone, adapter, request, settings, on_token)
    return Rollout(
        batch.prompt_ids, batch.prompt_mask, out.response_ids, out.response_mask, out.truncated, out.logprobs
    )
