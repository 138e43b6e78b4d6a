"""Score and KL penalty to a reward for each token."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lightning.masked import last_valid_index


def penalize_missing_eos(scores: Tensor, truncated: Tensor, penalty: float) -> Tensor:
    """Scores [B] less `penalty` (score units) where a response was cut off before its EOS.

    The paper does not say what it does; openai/lm-human-preferences replaces the score by a constant, which
    presumes a known scale. Subtracting works on any scale.

    >>> penalize_missing_eos(torch.tensor([1.0, 1.0]), torch.tensor([False, True]), 0.5)
    tensor([1.0000, 0.5000])
    """
    return scores - penalty * truncated.to(scores.dtype)


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """-kl_coef · kl at every token, plus the score at the last valid one (§3.5, Eq. 2); [B, R], 0 where masked.

    Args:
        scores: [B].
        kl: [B, R] per-token estimate, nats.
        response_mask: Bool [B, R].
        kl_coef: Weight of the penalty, score units per nat (C.4: 0.02).

    >>> token_rewards(
    ...     torch.tensor([1.0]), torch.tensor([[0.5, 0.5, 9.0]]), torch.tensor([[True, True, False]]), 0.1
    ... )
    tensor([[-0.0500,  0.9500,  0.0000]])
    """
    rewards = torch.where(response_mask, -kl_coef * kl, kl.new_zeros(()))
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last_valid_index(response_mask)] += scores.to(rewards.dtype)
    return rewards
