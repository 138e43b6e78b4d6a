"""How far the policy has moved from the reference: estimators of KL(policy, reference) from sampled tokens.

With r = p_reference / p_policy of a token that the policy sampled, k1 = -log r, k2 = (log r)² / 2 and
k3 = (r - 1) - log r (J. Schulman, "Approximating KL Divergence", 2020, http://joschu.net/blog/kl-approx.html).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlhf_lightning.masked import masked_sum

Estimator = Literal["k1", "k2", "k3"]


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


def kl_estimate(estimator: Estimator, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """One of the three by name; [B, R] nats.

    Args:
        estimator: k1, k2 or k3.
        logprobs: [B, R].
        ref_logprobs: [B, R].
    """
    return {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}[estimator](logprobs, ref_logprobs)


def kl_loss(
    estimator: Estimator, new_logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, num_tokens: float
) -> Tensor:
    """An estimate as a term of the loss, without its coefficient: summed over valid tokens, divided by `num_tokens`.

    What matters in a loss is the gradient's expectation under the policy, of each token given those before it:

    - k2: log(p / p_ref) ∇log p, whose expectation is the gradient of KL(policy, reference): the right one.
    - k3: (1 - p_ref / p) ∇log p, whose expectation is the gradient of KL(reference, policy): the divergence the other
      way round, although k3's value is KL(policy, reference). Both have the same minimum, and near it the same size.
    - k1: ∇log p, whose expectation is 0: noise and nothing else. Refused by `KLSettings`.

    Two things are left out. A token's influence on the prefixes after it is not in this gradient; it is where the
    penalty is in the reward. And there are no importance weights: from the second minibatch on the tokens are those
    of a policy some steps old, which moves the expectation by as much as the ratios differ from 1.

    Args:
        estimator: k2 or k3.
        new_logprobs: [B, R], differentiable.
        ref_logprobs: [B, R].
        response_mask: Bool [B, R].
        num_tokens: Valid tokens of the optimizer step, over its micro-batches and all processes.

    >>> half, quarter = torch.log(torch.tensor([[0.5, 9.0]])), torch.log(torch.tensor([[0.25, 9.0]]))
    >>> kl_loss("k2", half, quarter, torch.tensor([[True, False]]), 2.0)  # (log 2)² / 2, of 2 tokens
    tensor(0.1201)
    """
    # Masked before the estimate: the gradient of what is masked after it would be 0 times whatever stands there.
    new = torch.where(response_mask, new_logprobs, 0.0)
    reference = torch.where(response_mask, ref_logprobs, 0.0)
    return masked_sum(kl_estimate(estimator, new, reference), response_mask) / num_tokens


def adapted(kl_coef: float, kl: float, target: float, responses: int, horizon: float) -> float:
    """The coefficient after an iteration, by the proportional controller of Ziegler et al. (arXiv 1909.08593, §2.2).

    The relative error is clipped at 0.2 either way; with their 512 responses and horizon of 10,000 a coefficient
    changes by at most 1 % an iteration.

    Args:
        kl_coef: The coefficient of the iteration.
        kl: What was measured, nats per response.
        target: What is wanted, nats per response.
        responses: Responses of the iteration.
        horizon: Responses after which an error of 1 would have doubled the coefficient, were it not clipped.

    >>> adapted(0.1, kl=12.0, target=6.0, responses=500, horizon=10_000)  # 0.1 (1 + 0.2 / 20)
    0.101
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * responses / horizon)
