"""Hidden states to per-token log-probabilities and entropy, in float32, without keeping [B, T, V] alive."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 256
"""Rows of logits computed at a time: 256 x 49k x 4 bytes is 50 MB, and larger chunks are not faster."""


def _chunk(
    hidden: Tensor, targets: Tensor, unembed: Callable[[Tensor], Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    log_p = F.log_softmax(unembed(hidden).float() / temperature, dim=-1)
    entropy = -(log_p.detach().exp() * log_p.detach()).sum(-1)
    return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy


def token_logprobs(
    hidden: Tensor, targets: Tensor, unembed: Callable[[Tensor], Tensor], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token and the entropy of its distribution, both in nats, float32.

    Only rows whose loss is wanted should be passed: the vocabulary product dominates small models. Chunks are
    recomputed in the backward pass, so memory does not grow with the number of rows. Dividing by the
    sampling temperature makes the policy that is scored the one that was sampled from.

    Args:
        hidden: [N, H] final hidden states, one per wanted token (the position *before* the token).
        targets: [N] token ids.
        unembed: Hidden states to logits.
        temperature: The sampling temperature, > 0.

    Returns:
        logprobs [N] (differentiable) and entropy [N] (a diagnostic, detached).

    >>> hidden = torch.tensor([[0.75, 0.25]]).log()  # with the identity for an unembedding, p is (3/4, 1/4)
    >>> logprobs, entropy = token_logprobs(hidden, torch.tensor([1]), lambda h: h)
    >>> logprobs, entropy  # log 1/4; 3/4 log 4/3 + 1/4 log 4
    (tensor([-1.3863]), tensor([0.5623]))
    """
    if not len(targets):
        # An empty product keeps the graph connected, so an empty micro-batch still takes part in backward.
        return hidden.float().sum(-1), hidden.new_zeros(0, dtype=torch.float32)
    pieces = []
    for h, t in zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True):
        if torch.is_grad_enabled() and h.requires_grad:
            pieces.append(checkpoint(_chunk, h, t, unembed, temperature, use_reentrant=False))
        else:
            pieces.append(_chunk(h, t, unembed, temperature))
    logprobs, entropy = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)
