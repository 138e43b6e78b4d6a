"""PPO's formulas as loops over rows and tokens. A row is a list of 0-dim float64 tensors, one per valid token.

Sections are those of arXiv 2203.02155 (InstructGPT) unless another paper is named.
"""

from __future__ import annotations

import torch
from torch import Tensor

Rows = list[list[Tensor]]


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def flat(rows: Rows) -> list[Tensor]:
    return [x for row in rows for x in row]


def total(numbers: list[Tensor]) -> Tensor:
    out = number(0.0)
    for x in numbers:
        out = out + x
    return out


def advantages(rewards: Rows, values: Rows, gamma: float, lam: float) -> Rows:
    """arXiv 1506.02438, Eq. 16: the sum over l of (γλ)^l times the TD error l tokens later; nothing after the end."""
    out = []
    for r, v in zip(rewards, values, strict=True):
        n, row = len(r), []
        for t in range(n):
            terms = []
            for k in range(t, n):
                after = v[k + 1] if k + 1 < n else 0.0
                terms.append((gamma * lam) ** (k - t) * (r[k] + gamma * after - v[k]))
            row.append(total(terms))
        out.append(row)
    return out


def returns(rewards: Rows, values: Rows, gamma: float, lam: float) -> Rows:
    """The TD(λ) target: the mixture, with weights (1-λ)λ^(n-1), of returns that bootstrap after n tokens."""
    out = []
    for r, v in zip(rewards, values, strict=True):
        n, row = len(r), []
        for t in range(n):
            mixture = number(0.0)
            for steps in range(1, n - t + 1):
                seen = total([gamma**i * r[t + i] for i in range(steps)])
                if t + steps == n:  # the episode is over: all the weight that is left
                    mixture = mixture + lam ** (steps - 1) * seen
                else:
                    mixture = mixture + (1 - lam) * lam ** (steps - 1) * (seen + gamma**steps * v[t + steps])
            row.append(mixture)
        out.append(row)
    return out


def kl(logprobs: Rows, ref_logprobs: Rows, estimator: str) -> Rows:
    """Schulman's k1, k2 and k3 (http://joschu.net/blog/kl-approx.html) from probabilities, not their logarithms."""
    out = []
    for ours, theirs in zip(logprobs, ref_logprobs, strict=True):
        ratios = [torch.exp(b) / torch.exp(a) for a, b in zip(ours, theirs, strict=True)]
        if estimator == "k1":
            out.append([-torch.log(r) for r in ratios])
        elif estimator == "k2":
            out.append([torch.log(r) ** 2 / 2 for r in ratios])
        else:
            out.append([(r - 1) - torch.log(r) for r in ratios])
    return out


def kl_loss(new: Rows, reference: Rows, estimator: str, num_tokens: float) -> Tensor:
    """The estimate of every token, as a mean over the tokens of an optimizer step."""
    return total(flat(kl(new, reference, estimator))) / num_tokens


def token_rewards(scores: list[Tensor], kl: Rows, beta: float) -> Rows:
    """§3.5: "a per-token KL penalty at each token"; the reward model's score ends the episode (Eq. 2)."""
    out = []
    for score, row in zip(scores, kl, strict=True):
        rewards = [-beta * k for k in row]
        rewards[-1] = rewards[-1] + score
        out.append(rewards)
    return out


def penalized(scores: list[Tensor], truncated: list[bool], penalty: float) -> list[Tensor]:
    """The score less a penalty where no EOS came within the limit (not in the paper)."""
    return [s - penalty if cut else s for s, cut in zip(scores, truncated, strict=True)]


def moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and variance of all valid tokens of all rows; the variance is divided by n, not n - 1."""
    numbers = flat(rows)
    mean = total(numbers) / len(numbers)
    return mean, total([(x - mean) ** 2 for x in numbers]) / len(numbers)


def whitened(rows: Rows, shift_mean: bool) -> Rows:
    """(x - mean) / sqrt(variance + 1e-8), with the mean added again where only the scale is to change."""
    mean, var = moments(rows)
    kept = 0.0 if shift_mean else mean
    return [[(x - mean) / torch.sqrt(var + 1e-8) + kept for x in row] for row in rows]


def policy_loss(new: Rows, old: Rows, advantages: Rows, clip: float, num_tokens: float) -> Tensor:
    """arXiv 1707.06347, Eq. 7: minus the lesser of ratio · A and clip(ratio, 1-ε, 1+ε) · A."""
    terms = []
    for n, o, a in zip(flat(new), flat(old), flat(advantages), strict=True):
        ratio = torch.exp(n) / torch.exp(o)
        clipped = min(max(ratio, number(1 - clip)), number(1 + clip))
        terms.append(-min(ratio * a, clipped * a))
    return total(terms) / num_tokens


def value_loss(new: Rows, old: Rows, returns: Rows, clip: float | None, num_tokens: float) -> Tensor:
    """Half the squared error, or the greater one of it and that of the value moved by at most `clip`."""
    terms = []
    for n, o, target in zip(flat(new), flat(old), flat(returns), strict=True):
        errors = [(n - target) ** 2]
        if clip is not None:
            moved = n if abs(n - o) <= clip else o + clip * torch.sign(n - o)
            errors.append((moved - target) ** 2)
        terms.append(max(errors) / 2)
    return total(terms) / num_tokens


def ptx_loss(logprobs: Rows, num_tokens: float) -> Tensor:
    """Eq. 2, the expectation of log π(x) over pretraining text: its negative, per token."""
    return total([-x for x in flat(logprobs)]) / num_tokens


def explained_variance(values: Rows, returns: Rows) -> Tensor:
    """1 - Var[returns - values] / Var[returns]; the divisor is at least 1e-12."""
    errors = [[r - v for v, r in zip(a, b, strict=True)] for a, b in zip(values, returns, strict=True)]
    return 1 - moments(errors)[1] / max(moments(returns)[1], number(1e-12))
