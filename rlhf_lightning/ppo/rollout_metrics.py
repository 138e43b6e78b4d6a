"""What a rollout was like, over all processes, and whether its numbers can be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.fitting.guard import NonFiniteError
from rlhf_lightning.masked import masked_moments
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.scoring import ScoredRollout


def rollout_metrics(
    rollout: Rollout, scored: ScoredRollout, reduce: Callable[[Tensor], Tensor] = torch.clone
) -> dict[str, float]:
    """The `rollout/*` metrics: means over responses, except entropy, which is a mean over tokens.

    With several rewards or a function each has its own, before its weight; `rollout/score_mean` is of their sum.

    Without the reference's log-probabilities there is no `rollout/kl`.

    Args:
        rollout: B responses of this process.
        scored: Their numbers.
        reduce: Sums a tensor over all processes; by default there is one.
    """
    mask = rollout.response_mask
    every = torch.ones(len(rollout), dtype=torch.bool, device=mask.device)

    def mean(x: Tensor) -> float:
        return float(masked_moments(x, every, reduce)[0])

    score_mean, score_variance = masked_moments(scored.scores, every, reduce)
    divergence = {"rollout/kl": mean(torch.where(mask, scored.kl, 0.0).sum(1))}
    return ({} if scored.ref_logprobs is None else divergence) | {
        "rollout/score_mean": float(score_mean),
        "rollout/score_std": float(score_variance.sqrt()),
        "rollout/response_tokens": mean(mask.sum(1)),
        "rollout/eos_rate": 1 - mean(rollout.truncated),
        "rollout/entropy": float(masked_moments(scored.entropy, mask, reduce)[0]),
        **{f"rollout/reward/{name}": mean(values) for name, values in scored.rewards.items()},
    }


def mismatch_metrics(
    rollout: Rollout,
    scored: ScoredRollout,
    reduce: Callable[[Tensor], Tensor] = torch.clone,
    reduce_max: Callable[[Tensor], Any] = torch.clone,
) -> dict[str, float]:
    """How far the engine that sampled is from the forward that is trained.

    They round differently, so the tokens come from a slightly different policy than the update believes. The KL is
    an estimate of KL(sampler || trained), nats a token (it can be slightly negative); the ratio is the largest one
    of the two probabilities of a sampled token, either way round.

    Args:
        rollout: B responses of this process.
        scored: Their numbers.
        reduce: Sums a tensor over all processes; by default there is one.
        reduce_max: The maximum over them.
    """
    mask = rollout.response_mask
    gap = torch.where(mask, rollout.sampler_logprobs - scored.logprobs, 0.0)
    return {
        "rollout/mismatch_kl": float(masked_moments(gap, mask, reduce)[0]),
        "rollout/mismatch_ratio_max": float(reduce_max(gap.abs().max().exp())),
    }


def require_finite(rollout: Rollout, scored: ScoredRollout, texts: Sequence[str]) -> None:
    """Stop before a number that is not finite gets into advantages, which share their mean and variance.

    Raises:
        NonFiniteError: Names the quantity and the first prompt it concerns.
    """
    per_token = {
        "log-probability of the policy": scored.logprobs,
        "value": scored.values,
    }
    if scored.ref_logprobs is not None:
        per_token["log-probability of the reference"] = scored.ref_logprobs
    bad = {name: ~torch.isfinite(x) & rollout.response_mask for name, x in per_token.items()}
    rows = {name: x.any(1) for name, x in bad.items()} | {"score": ~torch.isfinite(scored.scores)}
    for name, row in rows.items():
        if bool(row.any()):
            prompt = texts[int(row.int().argmax())][:200]
            raise NonFiniteError(
                f"The {name} of {int(row.sum())} of {len(rollout)} responses is not finite; the first is to "
                f"{prompt!r}. No weight was changed by it. Go on from an earlier checkpoint with a lower "
                "model.init_args.optimizer.lr, or look at model.init_args.reward_from if it is the score."
            )
