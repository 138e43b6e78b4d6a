"""The K-wise loss against Eq. 1 written as loops."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.reward.loss import decided_pairs, ranking_loss
from rlhf_lightning.reward.metrics import PairMetrics

RANKINGS = st.lists(
    st.lists(st.integers(1, 4), min_size=2, max_size=9).filter(lambda r: len(set(r)) > 1), min_size=1, max_size=4
)


def flat(rankings: list[list[int]], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ranks = torch.tensor([r for row in rankings for r in row])
    prompt = torch.tensor([i for i, row in enumerate(rankings) for _ in row])
    scores = torch.randn(len(ranks), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores, ranks, prompt


@settings(max_examples=60, deadline=None)
@given(RANKINGS, st.integers(0, 99))
def test_loss_is_the_mean_over_prompts_of_the_mean_over_pairs(rankings: list[list[int]], seed: int) -> None:
    scores, ranks, prompt = flat(rankings, seed)
    per_prompt, start = [], 0
    for row in rankings:
        s = scores[start : start + len(row)].tolist()
        start += len(row)
        losses = []
        for i, j in combinations(range(len(row)), 2):
            if row[i] != row[j]:
                margin = s[i] - s[j] if row[i] < row[j] else s[j] - s[i]
                losses.append(math.log1p(math.exp(-margin)))
        per_prompt.append(sum(losses) / len(losses))
    expected = sum(per_prompt) / len(per_prompt)
    assert ranking_loss(scores, decided_pairs(ranks, prompt)).item() == pytest.approx(expected, abs=1e-12)


def test_without_ties_every_pair_weighs_one_over_k_choose_2() -> None:
    scores, ranks, prompt = flat([[1, 2, 3, 4]], 0)
    pairs = decided_pairs(ranks, prompt)
    assert len(pairs.better) == 6
    margins = scores[pairs.better] - scores[pairs.worse]
    assert ranking_loss(scores, pairs).item() == pytest.approx(torch.log1p(torch.exp(-margins)).sum().item() / 6)


def test_a_prompt_with_nine_responses_weighs_as_much_as_one_with_two() -> None:
    scores, ranks, prompt = flat([[1, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9]], 1)
    scores = scores * 0
    scores.requires_grad_()
    ranking_loss(scores, decided_pairs(ranks, prompt)).backward()
    assert scores.grad is not None
    # At equal scores each pair's gradient is 1/2; the pair of the first prompt has half of the batch's weight.
    assert scores.grad[0].item() == pytest.approx(-0.25)
    assert scores.grad[2].item() == pytest.approx(-0.5 * 8 / 36 / 2)


def test_batch_order_does_not_matter() -> None:
    scores, ranks, prompt = flat([[1, 2, 2], [3, 1]], 2)
    order = torch.tensor([4, 0, 3, 2, 1])
    a = ranking_loss(scores, decided_pairs(ranks, prompt))
    b = ranking_loss(scores[order], decided_pairs(ranks[order], prompt[order]))
    assert a.item() == pytest.approx(b.item(), abs=1e-15)


def test_metrics_on_a_worked_example() -> None:
    metrics = PairMetrics()
    scores = torch.tensor([2.0, 1.0, 0.0, 1.0])
    ranks, prompt = torch.tensor([1, 2, 1, 2]), torch.tensor([0, 0, 1, 1])
    metrics.update(scores, decided_pairs(ranks, prompt), prompt)  # first pair right, second wrong
    out = metrics.compute()
    assert out["accuracy"] == 0.5
    assert out["accuracy_k2"] == 0.5
    assert out["margin"] == 0.0
    # Confidence in the bin of sigmoid(1) = 0.731 was right half of the time, and likewise on the other side.
    assert out["ece"].item() == pytest.approx(1 / (1 + math.exp(-1)) - 0.5, abs=1e-6)
    assert "accuracy_k3" not in out
