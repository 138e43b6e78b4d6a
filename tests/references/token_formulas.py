"""What happens to single tokens, as loops: log-probabilities, the SFT loss, positions, packing and sampling.

Sections are those of arXiv 2203.02155 (InstructGPT).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Example = tuple[list[int], list[bool]]
"""Token ids, and which of them belong to a response."""


def last_valid_index(mask: list[bool]) -> int:
    return max(t for t, valid in enumerate(mask) if valid)


def position_ids(mask: list[bool]) -> list[int]:
    """How many valid tokens stand at or before a column, less one; 0 before the first."""
    return [max(0, sum(mask[: t + 1]) - 1) for t in range(len(mask))]


def log_softmax(logits: Sequence[Tensor], temperature: float) -> list[Tensor]:
    """log p_k = z_k / T - log Σ_j exp(z_j / T)."""
    normalizer = torch.zeros((), dtype=torch.float64)
    for z in logits:
        normalizer = normalizer + torch.exp(z / temperature)
    return [z / temperature - torch.log(normalizer) for z in logits]


def entropy(log_p: Sequence[Tensor]) -> float:
    return -sum(math.exp(x.item()) * x.item() for x in log_p)


def sft_loss(logits: Sequence[Sequence[Sequence[Tensor]]], examples: Sequence[Example], num_tokens: int) -> Tensor:
    """§3.5 (SFT): negative log-likelihood of response tokens, each given the tokens before it in its own example.

    An example's first token has nothing before it and is no target.

    Args:
        logits: Of each example and token, over the vocabulary: what is predicted after that token.
        examples: Tokens.
        num_tokens: Response tokens of the optimizer step.
    """
    loss = torch.zeros((), dtype=torch.float64)
    for rows, (ids, is_response) in zip(logits, examples, strict=True):
        for t in range(1, len(ids)):
            if is_response[t]:
                loss = loss - log_softmax(rows[t - 1], 1.0)[ids[t]]
    return loss / num_tokens


def packed_positions(row: Sequence[int]) -> list[int]:
    """Positions within each example of a row."""
    return [t for length in row for t in range(length)]


def inverse_cdf(probabilities: Sequence[float], uniform: float) -> int:
    """The first token whose cumulative probability exceeds a uniform number."""
    cumulative = 0.0
    for token, p in enumerate(probabilities):
        cumulative += p
        if uniform < cumulative:
            return token
    raise ValueError("the probabilities add up to less than the uniform number")


def learning_rate(step: int, name: str, warmup: float, start: float, final: float, total: float) -> float:
    """C.1 and C.2: a cosine to a tenth of the peak. C.4: constant after a linear warmup from a tenth of the peak."""
    steps = warmup * total if warmup < 1 else warmup
    if step < steps:
        return start * (steps - step) / steps + step / steps
    if name == "constant":
        return 1.0
    done = min((step - steps) / (total - steps), 1.0)
    return final + (1 - final) * math.cos(math.pi / 2 * done) ** 2
