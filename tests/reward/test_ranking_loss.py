"""The ranking loss and its metrics on numbers worked by hand; `tests/references` has the general case."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lightning.reward.loss import decided_pairs, ranking_loss
from rlhf_lightning.reward.metrics import PairMetrics


def test_without_ties_every_pair_weighs_one_over_k_choose_2() -> None:
    scores = torch.tensor([3.0, 1.0, 0.0])
    pairs = decided_pairs(torch.tensor([1, 2, 3]), torch.tensor([0, 0, 0]))
    assert list(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    expected = sum(math.log1p(math.exp(-margin)) for margin in (2.0, 3.0, 1.0)) / 3
    assert ranking_loss(scores, pairs).item() == pytest.approx(expected)


def test_metrics_start_again_after_they_were_computed() -> None:
    metrics, prompt = PairMetrics(), torch.tensor([0, 0])
    pairs = decided_pairs(torch.tensor([1, 2]), prompt)
    for scores, right in (([0.0, 2.0], 0.0), ([2.0, 0.0], 1.0)):
        metrics.update(torch.tensor(scores), pairs, prompt)
        out = metrics.compute()
        assert out["accuracy"] == out["accuracy_k2"] == right
        assert out["margin"] == scores[0] - scores[1]


def test_a_score_far_below_the_other_gives_a_finite_loss_and_a_gradient_of_one() -> None:
    """σ(-200) is 0 in float32, and its logarithm would be infinite."""
    scores = torch.tensor([-200.0, 0.0], requires_grad=True)
    loss = ranking_loss(scores, decided_pairs(torch.tensor([1, 2]), torch.tensor([0, 0])))
    loss.backward()
    assert scores.grad is not None
    assert loss.item() == 200.0
    assert scores.grad.tolist() == [-1.0, 1.0]


def test_a_prompt_with_nine_responses_weighs_as_much_as_one_with_two() -> None:
    rankings = [[1, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9]]
    scores = torch.zeros(11, requires_grad=True)
    prompt = torch.tensor([p for p, row in enumerate(rankings) for _ in row])
    ranking_loss(scores, decided_pairs(torch.tensor([r for row in rankings for r in row]), prompt)).backward()
    assert scores.grad is not None
    # At equal scores each pair's gradient is 1/2; the pair of the first prompt has half of the batch's weight.
    assert scores.grad[0].item() == pytest.approx(-0.25)
    assert scores.grad[2].item() == pytest.approx(-0.5 * 8 / 36 / 2)


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


def test_equal_scores_are_wrong() -> None:
    metrics, prompt = PairMetrics(), torch.tensor([0, 0])
    metrics.update(torch.zeros(2), decided_pairs(torch.tensor([1, 2]), prompt), prompt)
    assert metrics.compute()["accuracy"] == 0


def test_parts_of_a_step_add_up_to_the_whole() -> None:
    scores, ranks = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.1]), torch.tensor([1, 2, 2, 1, 3])
    prompt = torch.tensor([0, 0, 1, 1, 1])
    whole = ranking_loss(scores, decided_pairs(ranks, prompt))
    parts = [
        ranking_loss(scores[prompt == p], decided_pairs(ranks[prompt == p], prompt[prompt == p] - p), num_prompts=2)
        for p in (0, 1)
    ]
    assert torch.isclose(sum(parts, torch.zeros(())), whole, atol=1e-7)
