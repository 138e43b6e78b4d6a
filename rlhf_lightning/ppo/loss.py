"""The clipped losses of PPO (arXiv 1707.06347): sums over tokens, divided by the tokens of the optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lightning.masked import masked_sum


def policy_loss(
    new_logprobs: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float,
    num_tokens: float,
) -> Tensor:
    """max(-A·ratio, -A·clip(ratio)), summed over valid tokens and divided by `num_tokens`.

    With `num_tokens` counted over the whole optimizer step, splitting the step into micro-batches changes
    nothing.

    Args:
        new_logprobs: [B, R], differentiable.
        logprobs: [B, R] at rollout.
        advantages: [B, R].
        response_mask: Bool [B, R].
        clip_range: ε (C.4: 0.2).
        num_tokens: Valid tokens of the optimizer step.

    >>> one = torch.ones(1, 1)
    >>> policy_loss(torch.log(1.5 * one), 0 * one, one, one.bool(), 0.2, 1.0)  # gain is clipped at 1.2
    tensor(-1.2000)
    """
    ratio = torch.exp(torch.where(response_mask, new_logprobs - logprobs, 0.0))
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    return masked_sum(losses, response_mask) / num_tokens


def value_loss(
    new_values: Tensor,
    values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    value_clip_range: float | None,
    num_tokens: float,
) -> Tensor:
    """Half the squared error, clipped around the rollout's values; summed and divided by `num_tokens`.

    The paper does not state value clipping; openai/lm-human-preferences and its successors clip at 0.2.

    Args:
        new_values: [B, R], differentiable.
        values: [B, R] at rollout.
        returns: [B, R].
        response_mask: Bool [B, R].
        value_clip_range: Score units; None does not clip.
        num_tokens: Valid tokens of the optimizer step.
    """
    losses = (new_values - returns) ** 2
    if value_clip_range is not None:
        clipped = values + (new_values - values).clamp(-value_clip_range, value_clip_range)
        losses = torch.maximum(losses, (clipped - returns) ** 2)
    return 0.5 * masked_sum(losses, response_mask) / num_tokens
