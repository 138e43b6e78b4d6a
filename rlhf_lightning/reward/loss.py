"""The K-wise ranking loss of Eq. 1: every pair of a prompt's responses, every prompt with the same weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """The decided comparisons of a batch; M of them."""

    better: Tensor
    """[M] index of the preferred response."""
    worse: Tensor
    """[M] index of the other one."""
    prompt: Tensor
    """[M] which prompt the pair belongs to."""


def decided_pairs(ranks: Tensor, prompt: Tensor) -> Pairs:
    """All pairs of responses of one prompt with different ranks; ties are dropped (C.2).

    Args:
        ranks: [N] rank of each response within its prompt, 1 = best.
        prompt: [N] which prompt each response answers.

    >>> decided_pairs(torch.tensor([1, 2, 2, 1]), torch.tensor([0, 0, 0, 1])).better
    tensor([0, 0])
    """
    wins = (ranks.unsqueeze(1) < ranks.unsqueeze(0)) & (prompt.unsqueeze(1) == prompt.unsqueeze(0))
    better, worse = wins.nonzero(as_tuple=True)
    return Pairs(better, worse, prompt[better])


def ranking_loss(scores: Tensor, pairs: Pairs, num_prompts: float | None = None) -> Tensor:
    """-log σ(r_better - r_worse), averaged over each prompt's pairs and then over prompts; a scalar in nats.

    Without ties a pair weighs 1/C(K,2) as in Eq. 1. The paper does not say what happens to the divisor when
    ties are dropped; here it is the number of pairs that are left, so that every prompt keeps the same weight.

    Args:
        scores: [N] one score per response.
        pairs: From `decided_pairs`; at least one.
        num_prompts: Prompts of the whole optimizer step, where these are a part; by default those here.

    >>> pairs = decided_pairs(torch.tensor([1, 2]), torch.tensor([0, 0]))
    >>> ranking_loss(torch.tensor([0.0, 0.0]), pairs)  # log 2
    tensor(0.6931)
    """
    losses = -F.logsigmoid(scores[pairs.better] - scores[pairs.worse])
    prompts, counts = torch.unique(pairs.prompt, return_counts=True)
    weight = torch.zeros(int(prompts.max()) + 1, dtype=scores.dtype, device=scores.device)
    weight[prompts] = 1.0 / (counts.to(scores.dtype) * (num_prompts or len(prompts)))
    return (losses * weight[pairs.prompt]).sum()
