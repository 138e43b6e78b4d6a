"""Everything about a rollout that is computed once, before the update: reads Rollout, writes ScoredRollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rlhf_lightning.memory import split_by_tokens
from rlhf_lightning.ppo.kl import kl_k1
from rlhf_lightning.ppo.reward_sum import RewardSum
from rlhf_lightning.ppo.roles import RoleName, Roles
from rlhf_lightning.ppo.rollout import Rollout


@dataclass(frozen=True)
class ScoredRollout:
    """Numbers of a rollout of B responses of at most R tokens; 0 where masked."""

    logprobs: Tensor
    """[B, R] nats, of the policy that sampled."""
    ref_logprobs: Tensor | None
    """[B, R] nats, of the reference; None where it was not asked."""
    values: Tensor
    """[B, R] score units."""
    scores: Tensor
    """[B]"""
    entropy: Tensor
    """[B, R] nats."""
    rewards: dict[str, Tensor] = field(default_factory=dict)
    """Each of several rewards by name, unweighted, [B]; `scores` is their weighted sum."""

    @property
    def kl(self) -> Tensor:
        """The k1 estimate of each token's KL to the reference, nats, [B, R]; 0 where the reference was not asked."""
        if self.ref_logprobs is None:
            return torch.zeros_like(self.logprobs)
        return kl_k1(self.logprobs, self.ref_logprobs)


@torch.no_grad()
def score_rollout(
    roles: Roles,
    rollout: Rollout,
    temperature: float,
    micro_batch_tokens: int,
    with_values: bool = True,
    with_reference: bool = True,
    on_rows: Callable[[int], None] | None = None,
    rewards: RewardSum | None = None,
) -> ScoredRollout:
    """Log-probabilities of policy and reference, values and scores, by forwards like those of the update.

    Log-probabilities never come from decoding: in bf16 its rounding alone moves ratios by 5 %.

    Args:
        roles: The four roles.
        rollout: B responses.
        temperature: The sampling temperature.
        micro_batch_tokens: Tokens of a forward, once for each role in it; rows of similar length go together.
        with_values: Compute values; evaluation has no use for them and gets zeros.
        with_reference: Compute the reference's log-probabilities; without a KL penalty training has no use for them.
        on_rows: Called with the number of rows done, for a progress bar.
        rewards: Adds the rewards that read text to the reward model's scores; None where there are none.
    """
    shape = rollout.response_mask.shape
    # float32 by name: under bf16-true precision torch's default is bf16, whose log-probabilities have two digits.
    empty = torch.zeros(shape, dtype=torch.float32, device=rollout.response_ids.device)
    reference = empty.clone() if with_reference else None
    out = ScoredRollout(empty, reference, empty.clone(), empty[:, 0].clone(), empty.clone())
    wanted = {"reference": with_reference, "value": with_values, "reward": roles.reward_head is not None}
    asked: list[RoleName] = ["policy", *(role for role, is_wanted in wanted.items() if is_wanted)]  # type: ignore[list-item]
    order = rollout.tokens.argsort(stable=True)
    for rows in split_by_tokens(rollout.tokens[order] * roles.together(asked), micro_batch_tokens):
        index = order[rows]
        part = rollout.rows(index)
        width, hidden = part.response_ids.shape[1], roles.hidden(asked, part)
        logprobs, entropy = roles.logprobs("policy", part, temperature, hidden=hidden["policy"])
        out.logprobs[index, :width], out.entropy[index, :width] = logprobs, entropy
        if reference is not None:
            theirs, _ = roles.logprobs("reference", part, temperature, False, hidden["reference"])
            reference[index, :width] = theirs
        if with_values:
            out.values[index, :width] = roles.values(part, hidden["value"])
        out.scores[index] = roles.score(part, hidden.get("reward"))
        if on_rows:
            on_rows(len(index))
    if rewards is not None:
        scores, parts = rewards(rollout, out.scores)
        out = replace(out, scores=scores, rewards=parts)
    return out
