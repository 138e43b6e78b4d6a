"""The losses of PPO (arXiv 1707.06347) and PPO-ptx: sums over tokens, divided by the tokens of the optimizer step."""

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

    >>> one = torch.ones(1, 1)
    >>> value_loss(1 * one, 0 * one, 2 * one, one.bool(), 0.2, 1.0)  # from 0 to 1 counts as 0.2: (0.2 - 2)² / 2
    tensor(1.6200)
    >>> value_loss(1 * one, 0 * one, 2 * one, one.bool(), None, 1.0)  # (1 - 2)² / 2
    tensor(0.5000)
    """
    # Masked before the square: 0 times NaN is NaN, so a mask after it would let padding into the gradient.
    losses = torch.where(response_mask, new_values - returns, 0.0) ** 2
    if value_clip_range is not None:
        clipped = values + (new_values - values).clamp(-value_clip_range, value_clip_range)
        losses = torch.maximum(losses, torch.where(response_mask, clipped - returns, 0.0) ** 2)
    return 0.5 * losses.sum() / num_tokens


def ptx_loss(logprobs: Tensor, mask: Tensor, num_tokens: float) -> Tensor:
    """Negative log-likelihood of pretraining text: the last term of Eq. 2 (§3.5), without its weight γ; a scalar.

    Summed over valid tokens and divided by `num_tokens`: the paper does not say whether it averages over tokens
    or texts. With `num_tokens` counted over the whole optimizer step, splitting the step into micro-batches
    changes nothing.

    Args:
        logprobs: [B, T] nats, differentiable.
        mask: Bool [B, T]; True where the token is a target.
        num_tokens: Valid pretraining tokens of the optimizer step.

    >>> logprobs = torch.log(torch.tensor([[0.5, 0.25, 0.9]]))
    >>> ptx_loss(logprobs, torch.tensor([[True, True, False]]), 2.0)  # (log 2 + log 4) / 2
    tensor(1.0397)
    """
    return -masked_sum(logprobs, mask) / num_tokens
