"""Hidden states to per-token log-probabilities and entropy, in float32, without keeping [B, T, V] alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def chunk_rows(device: torch.device) -> int:
    """Rows of logits computed at a time: 128 x 49k floats are 25 MB, and more only fall out of a CPU's cache."""
    return 128 if device.type == "cpu" else 1024


RULED_OUT = -1e9
"""A logit of probability 0. Infinity would make 0 · ∞ of its part in the entropy."""


def rule_out(logits: Tensor, excluded: Tensor) -> Tensor:
    """Logits [N, V] with one token of a row impossible.

    Args:
        logits: [N, V] float32, already divided by the temperature.
        excluded: [N] token ids; -1 where every token is possible.

    >>> rule_out(torch.zeros(2, 2), torch.tensor([1, -1])).softmax(-1)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]])
    """
    excluded = excluded.unsqueeze(1)
    index = excluded.clamp(min=0)
    return logits.scatter(1, index, torch.where(excluded >= 0, RULED_OUT, logits.gather(1, index)))


def _chunk(
    hidden: Tensor,
    targets: Tensor,
    unembed: Callable[[Tensor], Tensor],
    temperature: float,
    excluded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    logits = unembed(hidden).float() / temperature
    log_p = F.log_softmax(logits if excluded is None else rule_out(logits, excluded), dim=-1)
    entropy = -(log_p.detach().exp() * log_p.detach()).sum(-1)
    return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy


class _FrozenLogprobs(torch.autograd.Function):
    """Log-probabilities under a frozen unembedding, with the gradient computed while the logits are there.

    A token's log-probability has the gradient W[target] - Σ p_v W[v], whatever comes after it, so it can be kept as
    [N, H] in place of logits, and nothing of size V is computed a second time.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        layer: nn.Linear,
        temperature: float,
        with_entropy: bool,
        excluded: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        need_gradient = ctx.needs_input_grad[0]
        logprobs, entropies, gradients = [], [], []
        size = chunk_rows(hidden.device)
        for number, (h, t) in enumerate(zip(hidden.split(size), targets.unsqueeze(1).split(size), strict=True)):
            logits = layer(h).float()
            if temperature != 1.0:
                logits /= temperature
            if excluded is not None:
                logits = rule_out(logits, excluded[number * size :][:size])
            # Not by `logsumexp` and `exp`: softmax is one operation and takes half as long on a CPU.
            log_p = logits.log_softmax(-1)
            del logits
            logprobs.append(log_p.gather(1, t).squeeze(1))
            if not (with_entropy or need_gradient):
                continue
            p = log_p.softmax(-1)
            if with_entropy:
                entropies.append(-(p * log_p).sum(-1))  # autocast would round `vecdot` to 16 bit
            if need_gradient:
                expected = p.to(layer.weight.dtype) @ layer.weight
                gradients.append((layer.weight[t.squeeze(1)] - expected).to(hidden.dtype) / temperature)
        if need_gradient:
            ctx.save_for_backward(torch.cat(gradients))
        logprob = torch.cat(logprobs)
        entropy = torch.cat(entropies) if with_entropy else torch.zeros_like(logprob)
        ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return (grad.unsqueeze(1) * gradient).to(gradient.dtype), None, None, None, None, None


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    unembed: Callable[[Tensor], Tensor],
    temperature: float = 1.0,
    with_entropy: bool = True,
    excluded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token and the entropy of its distribution, both in nats, float32.

    Only rows whose loss is wanted should be passed: the vocabulary product dominates small models. Memory does
    not grow with the number of rows: with a frozen `nn.Linear` the gradient is computed on the way, otherwise
    chunks are recomputed in the backward pass. Dividing by the sampling temperature makes the policy that is
    scored the one that was sampled from.

    Args:
        hidden: [N, H] final hidden states, one per wanted token (the position *before* the token).
        targets: [N] token ids.
        unembed: Hidden states to logits.
        temperature: The sampling temperature, > 0.
        with_entropy: Compute the entropy; without, it is 0.
        excluded: [N] ids of a token that could not be drawn there, -1 for none; by default all tokens could.

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
    if type(unembed) is nn.Linear and not any(p.requires_grad for p in unembed.parameters()):
        frozen: tuple[Tensor, Tensor] = _FrozenLogprobs.apply(
            hidden, targets, unembed, temperature, with_entropy, excluded
        )
        return frozen
    pieces, size = [], chunk_rows(hidden.device)
    for number, (h, t) in enumerate(zip(hidden.split(size), targets.split(size), strict=True)):
        no = None if excluded is None else excluded[number * size :][:size]
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_chunk, h, t, unembed, temperature, no, use_reentrant=False))
        else:
            pieces.append(_chunk(h, t, unembed, temperature, no))
    logprobs, entropy = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)
