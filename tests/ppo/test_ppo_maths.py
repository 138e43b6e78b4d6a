"""PPO's formulas against slow references written from their definitions, on ragged masks with NaN in the padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.masked import last_valid_index, masked_mean, position_ids, whiten
from rlhf_lightning.ppo.advantages import gae
from rlhf_lightning.ppo.loss import policy_loss, value_loss
from rlhf_lightning.ppo.rewards import penalize_missing_eos, token_rewards

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def ragged(lengths: list[int], seed: int, poison: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Random float64 numbers [B, R] with NaN in the padding, and the mask."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + 1
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    x = torch.randn(len(lengths), width, generator=generator, dtype=torch.float64)
    return torch.where(mask, x, torch.nan if poison else 0.0), mask


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 99), st.floats(0.05, 0.95), st.floats(0.5, 1.0))
def test_gae_is_the_sum_of_discounted_td_errors(lengths: list[int], seed: int, lam: float, gamma: float) -> None:
    rewards, mask = ragged(lengths, seed)
    values, _ = ragged(lengths, seed + 100)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for b, n in enumerate(lengths):
        v = [*values[b, :n].tolist(), 0.0]
        delta = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
            assert advantages[b, t].item() == pytest.approx(expected, abs=1e-12)
            assert returns[b, t].item() == pytest.approx(expected + v[t], abs=1e-12)
        assert (advantages[b, n:] == 0).all()
        assert (returns[b, n:] == 0).all()


def test_gae_limits_are_reward_to_go_and_td_error() -> None:
    rewards, mask = ragged([4, 2], 0)
    values, _ = ragged([4, 2], 1)
    to_go = torch.where(mask, rewards, 0).flip(1).cumsum(1).flip(1)
    assert torch.allclose(gae(rewards, values, mask, 1.0, 1.0)[0][mask], (to_go - values)[mask])
    nxt = torch.where(mask, values, 0).roll(-1, 1)
    assert torch.allclose(gae(rewards, values, mask, 1.0, 0.0)[0][mask], (rewards + nxt - values)[mask])


def test_whitening_looks_at_valid_tokens_only() -> None:
    x, mask = ragged([5, 1, 3], 3)
    out = whiten(x, mask)
    valid = x[mask]
    expected = (valid - valid.mean()) / torch.sqrt(valid.var(unbiased=False) + 1e-8)
    assert torch.allclose(out[mask], expected)
    assert (out[~mask] == 0).all()
    assert torch.allclose(whiten(x, mask, shift_mean=False)[mask], expected + valid.mean())


def test_appended_padding_changes_nothing() -> None:
    x, mask = ragged([3, 2], 4)
    wide = torch.cat([x, torch.full((2, 3), torch.nan)], 1)
    wide_mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    assert torch.equal(whiten(wide, wide_mask)[:, :4], whiten(x, mask))
    assert masked_mean(wide, wide_mask) == masked_mean(x, mask)
    assert torch.equal(gae(wide, wide, wide_mask)[0][:, :4], gae(x, x, mask)[0])


def test_score_lands_on_the_last_valid_token_and_kl_on_every_one() -> None:
    kl, mask = ragged([3, 1], 5)
    scores = torch.tensor([2.0, -1.0], dtype=torch.float64)
    rewards = token_rewards(scores, kl, mask, 0.1)
    assert rewards[0, 0].item() == pytest.approx(-0.1 * kl[0, 0].item())
    assert rewards[0, 2].item() == pytest.approx(2.0 - 0.1 * kl[0, 2].item())
    assert rewards[1, 0].item() == pytest.approx(-1.0 - 0.1 * kl[1, 0].item())
    assert (rewards[~mask] == 0).all()


def test_a_response_without_eos_is_penalised() -> None:
    scores = penalize_missing_eos(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), 0.5)
    assert scores.tolist() == [0.5, 1.0]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 99), st.booleans())
def test_losses_match_a_loop_over_tokens(lengths: list[int], seed: int, clip_values: bool) -> None:
    new, mask = ragged(lengths, seed)
    old, _ = ragged(lengths, seed + 1)
    adv, _ = ragged(lengths, seed + 2)
    value_clip = 0.2 if clip_values else None
    count = float(sum(lengths))
    expected_policy = expected_value = 0.0
    for b, n in enumerate(lengths):
        for t in range(n):
            ratio = math.exp(new[b, t].item() - old[b, t].item())
            a = adv[b, t].item()
            expected_policy -= min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            v, v0, target = new[b, t].item(), old[b, t].item(), adv[b, t].item()
            near = v0 + min(max(v - v0, -0.2), 0.2) if clip_values else v
            expected_value += 0.5 * max((v - target) ** 2, (near - target) ** 2)
    assert policy_loss(new, old, adv, mask, 0.2, count).item() == pytest.approx(expected_policy / count, abs=1e-12)
    assert value_loss(new, old, adv, mask, value_clip, count).item() == pytest.approx(expected_value / count, abs=1e-12)


def test_splitting_a_step_changes_no_gradient() -> None:
    new, mask = ragged([5, 2, 4, 1], 7)
    old, _ = ragged([5, 2, 4, 1], 8)
    adv, _ = ragged([5, 2, 4, 1], 9)

    def gradient(parts: list[slice]) -> torch.Tensor:
        x = new.clone().requires_grad_()
        for p in parts:
            policy_loss(x[p], old[p], adv[p], mask[p], 0.2, 12.0).backward()
        assert x.grad is not None
        return torch.where(mask, x.grad, 0.0)

    assert torch.allclose(gradient([slice(0, 4)]), gradient([slice(0, 1), slice(1, 4)]), atol=1e-15)


def test_last_valid_index_and_positions_on_both_sides() -> None:
    mask = torch.tensor([[False, True, True], [True, True, False], [True, False, False]])
    assert last_valid_index(mask).tolist() == [2, 1, 0]
    assert position_ids(mask)[0].tolist() == [0, 0, 1]
