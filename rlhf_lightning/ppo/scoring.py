"""Everything about a rollout that is computed once, before the update: reads Rollout, writes ScoredRollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lightning.ppo.roles import Roles
from rlhf_lightning.ppo.rollout import Rollout


@dataclass(frozen=True)
class ScoredRollout:
    """Numbers of a rollout of B responses of at most R tokens; 0 where masked."""

    logprobs: Tensor
    """[B, R] nats, of the policy that sampled."""
    ref_logprobs: Tensor
    """[B, R] nats, of the reference."""
    values: Tensor
    """[B, R] score units."""
    scores: Tensor
    """[B]"""
    entropy: Tensor
    """[B, R] nats."""


@torch.no_grad()
def score_rollout(
    roles: Roles,
    rollout: Rollout,
    temperature: float,
    micro_batch_size: int,
    with_values: bool = True,
    on_rows: Callable[[int], None] | None = None,
) -> ScoredRollout:
    """Log-probabilities of policy and reference, values and scores, by forwards like those of the update.

    Log-probabilities never come from decoding: in bf16 its rounding alone moves ratios by 5 %.

    Args:
        roles: The four roles.
        rollout: B responses.
        temperature: The sampling temperature.
        micro_batch_size: Rows of a forward; rows of similar length go together.
        with_values: Compute values; evaluation has no use for them and gets zeros.
        on_rows: Called with the number of rows done, for a progress bar.
    """
    shape = rollout.response_mask.shape
    # float32 by name: under bf16-true precision torch's default is bf16, whose log-probabilities have two digits.
    empty = torch.zeros(shape, dtype=torch.float32, device=rollout.response_ids.device)
    out = ScoredRollout(empty, empty.clone(), empty.clone(), empty[:, 0].clone(), empty.clone())
    lengths = rollout.prompt_mask.sum(1) + rollout.response_mask.sum(1)
    for index in lengths.argsort(stable=True).split(micro_batch_size):
        part = rollout.rows(index)
        width = part.response_ids.shape[1]
        logprobs, entropy = roles.logprobs("policy", part, temperature)
        ref_logprobs, _ = roles.logprobs("reference", part, temperature)
        out.logprobs[index, :width], out.entropy[index, :width] = logprobs, entropy
        out.ref_logprobs[index, :width] = ref_logprobs
        if with_values:
            out.values[index, :width] = roles.values(part)
        out.scores[index] = roles.score(part)
        if on_rows:
            on_rows(len(index))
    return out
