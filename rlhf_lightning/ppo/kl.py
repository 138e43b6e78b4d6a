"""How far the policy has moved from the reference."""

from __future__ import annotations

from torch import Tensor


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log p_policy - log p_reference of each sampled token, nats: the unbiased estimator k1 of §3.5's penalty.

    Summed over a response its expectation is the KL divergence; single values may be negative.

    Args:
        logprobs: [B, R].
        ref_logprobs: [B, R].
    """
    return logprobs - ref_logprobs
