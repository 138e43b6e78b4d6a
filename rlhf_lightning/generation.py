"""Sampling responses: an explicit decode loop with its own random numbers, so that every draw can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_lightning.bounds import check_number
from rlhf_lightning.masked import position_ids


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are sampled. C.4: temperature 1; top-k and top-p are not given and not applied."""

    max_response_tokens: int = 1000
    """Responses are stopped here, EOS or not (App. C: 1k)."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    batch_size: int = 64
    """Prompts decoded together; limits memory, changes no result but by rounding."""

    def __post_init__(self) -> None:
        key = "model.init_args.sampling"
        check_number(f"{key}.max_response_tokens", self.max_response_tokens, at_least=1)
        check_number(f"{key}.temperature", self.temperature, at_least=0)
        check_number(f"{key}.batch_size", self.batch_size, at_least=1)


@dataclass(frozen=True)
class Generated:
    """Sampled responses, padded right."""

    response_ids: Tensor
    """[B, R]"""
    response_mask: Tensor
    """Bool [B, R]; EOS is inside."""
    truncated: Tensor
    """Bool [B]; stopped by the length limit, without EOS."""


@torch.no_grad()
def generate(
    lm: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    settings: SamplingSettings,
    uniforms: Tensor,
    eos_id: int,
    pad_id: int,
    on_token: Callable[[int], None] | None = None,
) -> Generated:
    """Sample one response per prompt.

    A token is drawn by inverting the cumulative distribution at a given uniform number: a tenth of the cost of
    `torch.multinomial` on a large vocabulary, and a row's draws do not depend on which rows are beside it.
    Finished rows leave the batch when enough of them have gathered.

    Args:
        lm: A transformers causal LM, on the tensors' device, with the weights to sample from active.
        prompt_ids: [B, P], padded left.
        prompt_mask: Bool [B, P].
        settings: Length limit and temperature.
        uniforms: [B, max_response_tokens] numbers in [0, 1).
        eos_id: Ends a response and belongs to it.
        pad_id: Written after the end.
        on_token: Called with the number of tokens just sampled, for a progress bar.
    """
    size, limit = len(prompt_ids), settings.max_response_tokens
    response_ids = prompt_ids.new_full((size, limit), pad_id)
    response_mask = torch.zeros(size, limit, dtype=torch.bool, device=prompt_ids.device)
    cache = DynamicCache(config=lm.config)
    rows = torch.arange(size, device=prompt_ids.device)  # which response each row of the batch belongs to
    alive = torch.ones(size, dtype=torch.bool, device=prompt_ids.device)
    mask, step_ids, positions = prompt_mask, prompt_ids, position_ids(prompt_mask)
    for step in range(limit):
        hidden = lm.base_model(
            input_ids=step_ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        # As a matrix: a [B, 1, H] slice makes torch copy the unembedding B times.
        logits = lm.get_output_embeddings()(hidden[:, -1])
        token = sample(logits, settings.temperature, uniforms[rows, step])
        response_ids[rows[alive], step] = token[alive]
        response_mask[rows[alive], step] = True
        if on_token:
            on_token(int(alive.sum()))
        alive = alive & (token != eos_id)
        if not alive.any():
            break
        if alive.sum() <= 0.75 * len(alive):
            keep = alive.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, mask, positions, token, alive = rows[keep], mask[keep], positions[keep], token[keep], alive[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        step_ids, positions = token.unsqueeze(1), positions[:, -1:] + 1
    width = max(1, int(response_mask.sum(1).max()))
    response_ids, response_mask = response_ids[:, :width], response_mask[:, :width]
    has_eos = ((response_ids == eos_id) & response_mask).any(1)
    return Generated(response_ids, response_mask, ~has_eos)


def sample(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """One token per row of logits [B, V] from a uniform number each [B]; [B] long.

    >>> logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    >>> [int(sample(logits, 1.0, torch.tensor([u]))) for u in (0.1, 0.6, 0.9)]
    [0, 1, 2]
    """
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = torch.softmax(logits.float() / temperature, -1).cumsum(-1)
    # Scaled by the total: rounding leaves it a little off 1, and a draw beyond it would be out of range.
    point = uniforms.to(cumulative) * cumulative[:, -1]
    token = torch.searchsorted(cumulative, point.unsqueeze(1), right=True).squeeze(1)
    return token.clamp(max=logits.shape[-1] - 1)
