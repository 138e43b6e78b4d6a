"""How far the policy has moved from the reference: estimators of KL(policy, reference) from sampled tokens.

With r = p_reference / p_policy of a token that the policy sampled, k1 = -log r, k2 = (log r)² / 2 and
k3 = (r - 1) - log r (J. Schulman, "Approximating KL Divergence", 2020, http://joschu.net/blog/kl-approx.html).
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log p_policy - log p_reference of each sampled token, nats: the unbiased estimator k1 of §3.5's penalty.

    Summed over a response its expectation is the KL divergence; single values may be negative.

    Args:
        logprobs: [B, R].
        ref_logprobs: [B, R].

    >>> kl_k1(torch.log(torch.tensor([0.5, 0.25])), torch.log(torch.tensor([0.25, 0.5])))  # log 2, -log 2
    tensor([ 0.6931, -0.6931])
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio of each sampled token, nats: never negative, biased, of low variance; [B, R].

    Between close distributions its expectation is the KL divergence up to terms of third order.

    Args:
        logprobs: [B, R].
        ref_logprobs: [B, R].

    >>> kl_k2(torch.log(torch.tensor([0.5, 0.25])), torch.log(torch.tensor([0.25, 0.5])))  # (log 2)² / 2, twice
    tensor([0.2402, 0.2402])
    """
    return 0.5 * (ref_logprobs - logprobs) ** 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(r - 1) - log r of each sampled token, nats: unbiased like k1 and never negative; [B, R].

    The term r - 1 has expectation 0 under the policy and is what takes k1's variance away. Where the reference
    finds a token far more likely than the policy, r and so the estimate are very large.

    Args:
        logprobs: [B, R].
        ref_logprobs: [B, R].

    >>> kl_k3(torch.log(torch.tensor([0.5, 0.25])), torch.log(torch.tensor([0.25, 0.5])))  # -1/2 + log 2, 1 - log 2
    tensor([0.1931, 0.3069])
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio
