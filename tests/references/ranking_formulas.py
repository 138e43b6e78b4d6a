"""The reward model's loss and metrics as loops over prompts and pairs (§3.5, Eq. 1 and C.2 of arXiv 2203.02155)."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

Ranked = list[tuple[Tensor, int]]
"""Score and rank of each response to one prompt; 1 is best."""


def margins(prompt: Ranked) -> list[Tensor]:
    """Score of the preferred response less that of the other, for every pair that is no tie."""
    out = []
    for (score_a, rank_a), (score_b, rank_b) in combinations(prompt, 2):
        if rank_a != rank_b:
            out.append(score_a - score_b if rank_a < rank_b else score_b - score_a)
    return out


def ranking_loss(prompts: list[Ranked]) -> Tensor:
    """Eq. 1: -log σ(margin), the mean over a prompt's pairs, then over prompts that have any."""
    loss, count = torch.zeros((), dtype=torch.float64), 0
    for prompt in prompts:
        pairs = margins(prompt)
        if pairs:
            count += 1
            for margin in pairs:
                loss = loss - torch.log(1 / (1 + torch.exp(-margin))) / len(pairs)
    return loss / count


def accuracy(prompts: list[Ranked], k: int | None = None) -> float:
    """Share of pairs with a positive margin; with `k` of prompts that have that many responses."""
    right = [m.item() > 0 for prompt in prompts if k in (None, len(prompt)) for m in margins(prompt)]
    return sum(right) / len(right)


def mean_margin(prompts: list[Ranked]) -> float:
    found = [m.item() for prompt in prompts for m in margins(prompt)]
    return sum(found) / len(found)


def calibration_error(prompts: list[Ranked], bins: int = 10) -> float:
    """arXiv 1706.04599, Eq. 3: the mean over bins of |frequency - confidence|, weighted by their pairs.

    Every pair counts in both orders: σ(margin) that the preferred response wins, σ(-margin) that the other does.
    """
    confidence, wins, count = [0.0] * bins, [0] * bins, [0] * bins
    for margin in (m.item() for prompt in prompts for m in margins(prompt)):
        for signed, won in ((margin, 1), (-margin, 0)):
            p = 1 / (1 + math.exp(-signed))
            b = min(int(p * bins), bins - 1)
            confidence[b], wins[b], count[b] = confidence[b] + p, wins[b] + won, count[b] + 1
    return sum(abs(wins[b] - confidence[b]) for b in range(bins)) / sum(count)
