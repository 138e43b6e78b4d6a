"""Generalised advantage estimation (arXiv 1506.02438) over the valid tokens of each response."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of each token; the episode ends after the last valid token (bootstrap value 0).

    A response cut at the length limit is an ended episode too: the environment is a bandit (§3.5).

    Args:
        rewards: [B, R].
        values: [B, R], value before each token.
        response_mask: Bool [B, R]; valid tokens are a prefix of each row.
        gamma: Discount (C.4: none).
        gae_lambda: Not stated by the paper; 0.95 in Stiennon et al. B.1 (arXiv 2009.01325).

    Returns:
        advantages [B, R], not whitened, and returns = advantages + values [B, R]; both 0 where masked.

    >>> advantages, returns = gae(
    ...     torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), torch.ones(1, 2, dtype=torch.bool), 1.0, 0.5
    ... )
    >>> advantages  # last: 1 - 0.5; first: (0 + 0.5 - 0.5) + 0.5 * 0.5
    tensor([[0.2500, 0.5000]])
    """
    zero = values.new_zeros(())
    values = torch.where(response_mask, values, zero)
    advantages = torch.zeros_like(values)
    running = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        next_values = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(running)
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        running = torch.where(response_mask[:, t], delta + gamma * gae_lambda * running, zero)
        advantages[:, t] = running
    return advantages, advantages + values
