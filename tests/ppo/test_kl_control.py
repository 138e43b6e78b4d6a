"""The KL penalty's gradients, its controller, and when an iteration's update or the run ends, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.buffer import Experience, MicroBatch
from rlhf_lightning.ppo.kl import Estimator, adapted, kl_estimate
from rlhf_lightning.ppo.kl_control import KLControl, no_loss
from rlhf_lightning.ppo.kl_settings import KLSettings
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.scoring import ScoredRollout

THETA = torch.tensor([0.3, -0.2, 0.8, 0.0], dtype=torch.float64)
Q = torch.tensor([0.35, 0.3, 0.1, 0.25], dtype=torch.float64)


def forward(p: Tensor) -> Tensor:
    """KL(policy, reference)"""
    return (p * (p / Q).log()).sum()


def backward(p: Tensor) -> Tensor:
    """KL(reference, policy)"""
    return (Q * (Q / p).log()).sum()


def gradient(of: Callable[[Tensor], Tensor]) -> Tensor:
    theta = THETA.clone().requires_grad_()
    of(theta.softmax(0)).backward()
    assert theta.grad is not None
    return theta.grad


@pytest.mark.parametrize(
    ("estimator", "wanted"),
    [("k1", lambda p: 0 * p.sum()), ("k2", forward), ("k3", backward)],
)
def test_gradients_of_the_estimators_in_the_loss(estimator: Estimator, wanted: Callable[[Tensor], Tensor]) -> None:
    """The expectation over a vocabulary of four of an estimate's gradient, tokens drawn from the policy itself."""

    def in_loss(p: Tensor) -> Tensor:
        return (p.detach() * kl_estimate(estimator, p.log(), Q.log())).sum()

    assert torch.allclose(gradient(in_loss), gradient(wanted), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("estimator", "wanted"), [("k1", forward), ("k3", lambda p: forward(p) - backward(p)), ("k2", None)]
)
def test_gradients_of_the_estimators_in_the_reward(
    estimator: Estimator, wanted: Callable[[Tensor], Tensor] | None
) -> None:
    """A policy gradient takes the estimate for a constant: E[estimate · ∇log p]."""

    def in_reward(p: Tensor) -> Tensor:
        return (p.detach() * kl_estimate(estimator, p.log(), Q.log()).detach() * p.log()).sum()

    if wanted is not None:
        assert torch.allclose(gradient(in_reward), gradient(wanted), rtol=0, atol=1e-14)
    else:  # k2: not the right one, and of second order around the reference
        assert not torch.allclose(gradient(in_reward), gradient(forward), rtol=0.1)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_near_the_reference_k2_and_k3_in_the_reward_vanish(estimator: Estimator) -> None:
    """Ten times closer, the right gradient is a tenth; theirs is a hundredth."""
    direction = torch.tensor([1.0, -2.0, 0.5, 0.5], dtype=torch.float64)
    norms = []
    for size in (1e-2, 1e-3):
        theta = (Q.log() + size * direction).requires_grad_()
        p = theta.softmax(0)
        (p.detach() * kl_estimate(estimator, p.log(), Q.log()).detach() * p.log()).sum().backward()
        assert theta.grad is not None
        norms.append(theta.grad.norm())
    assert float(norms[0] / norms[1]) == pytest.approx(100, rel=0.1)


def test_the_controller_by_hand() -> None:
    """Errors of 0.1, of 1 (clipped at 0.2) and of -0.9 (clipped at -0.2); 500 responses, a horizon of 10,000."""
    assert adapted(0.1, 6.6, 6.0, 500, 10_000) == pytest.approx(0.1 * (1 + 0.1 * 0.05))
    assert adapted(0.1, 12.0, 6.0, 500, 10_000) == pytest.approx(0.1 * (1 + 0.2 * 0.05))
    assert adapted(0.1, 0.6, 6.0, 500, 10_000) == pytest.approx(0.1 * (1 - 0.2 * 0.05))
    assert adapted(0.1, -3.0, 6.0, 500, 10_000) == pytest.approx(0.1 * (1 - 0.2 * 0.05))


def test_the_coefficient_changes_once_an_iteration_however_often_it_is_rolled_out() -> None:
    control = KLControl(KLSettings(target=1.0, horizon=10), 0.5)
    for _ in range(3):  # killed before the first step, twice
        control.start(0)
        assert control.coef == 0.5
        control.measured(2.0, 10)
    resumed = KLControl(KLSettings(target=1.0, horizon=10), 0.5)
    resumed.load_state_dict(control.state_dict())
    for _ in range(2):
        resumed.start(1)
        assert resumed.coef == pytest.approx(0.5 * 1.2)
        resumed.measured(0.0, 10)
    assert resumed.metrics() == {"kl_coef": resumed.coef}
    resumed.start(2)
    assert resumed.coef == pytest.approx(0.5 * 1.2 * 0.8)


def test_a_fixed_coefficient_stays() -> None:
    control = KLControl(KLSettings(), 0.02)
    control.start(0)
    control.measured(50.0, 512)
    control.start(1)
    assert control.coef == 0.02


def experience(reference: Tensor | None = None) -> Experience:
    mask = torch.tensor([[True, True], [True, False]])
    zeros = torch.zeros(2, 2)
    return Experience(
        Rollout(mask.long(), mask, mask.long(), mask, mask[:, 0], zeros), zeros, zeros, zeros, zeros, reference
    )


def test_an_update_ends_beyond_its_limit() -> None:
    """Log-ratios of 0.2, 0.4 and 0.4: k2 sums to 0.18, and over a step of 6 tokens in two processes to 2 · 0.18 / 6."""
    batch, nan = MicroBatch(experience(), 6.0), float("nan")
    for limit, ends in ((0.07, False), (0.05, True)):
        control = KLControl(KLSettings(stop_update=limit), 0.02)
        control.start(0)
        control.moved(torch.tensor([[0.2, 0.4], [0.4, nan]]), batch)
        assert control.skips_step(lambda x: 2 * x) is ends
        control.moved(torch.zeros(2, 2), batch)
        assert control.skips_step(lambda x: 2 * x) is ends  # and stays so, for the iteration
        assert control.metrics()["policy/skipped_minibatches"] == 2 * ends
        control.start(1)
        assert not control.stopped
        control.moved(torch.zeros(2, 2), batch)
        assert not control.skips_step(lambda x: 2 * x)


@pytest.mark.parametrize("ratio", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_to_the_guard(ratio: float) -> None:
    control = KLControl(KLSettings(stop_update=0.1), 0.02)
    control.start(0)
    control.moved(torch.full((2, 2), ratio), MicroBatch(experience(), 3.0))
    assert not control.skips_step(torch.clone)


def test_without_a_limit_nothing_is_asked_of_other_processes() -> None:
    control = KLControl(KLSettings(), 0.02)
    control.start(0)
    control.moved(torch.ones(2, 2), MicroBatch(experience(), 3.0))
    assert not control.skips_step(lambda x: pytest.fail("a reduction"))


def test_a_penalty_is_in_the_reward_or_in_the_loss() -> None:
    reference, zeros = torch.tensor([[-1.0, -1.0], [-1.0, 0.0]]), torch.zeros(2, 2)
    scored = ScoredRollout(zeros, reference, zeros, zeros[:, 0], zeros)
    control = KLControl(KLSettings(), 0.5)
    assert torch.equal(control.penalty(scored), -reference)
    assert control.kept_reference(scored) is None
    assert control.loss(zeros, experience(), 3.0) == 0.0
    control = KLControl(KLSettings(estimator="k2", place="loss"), 0.5)
    assert not control.penalty(scored).any()
    kept = control.kept_reference(scored)
    assert kept is not None
    assert float(control.loss(zeros, experience(kept), 6.0)) == pytest.approx(0.5 * (3 * 0.5) / 6)  # three times 1² / 2


def test_the_budget() -> None:
    control = KLControl(KLSettings(budget=5.0), 0.02)
    control.start(0)
    assert control.within_budget("validation", 9.0, "") is None
    assert control.within_budget("rollout", 5.0, "") is True
    assert control.within_budget("rollout", 5.1, "in iteration 3") is False
    assert "5.1 nats per response in iteration 3" in control.exceeded
    assert control.skips_step(torch.clone)
    resumed = KLControl(KLSettings(budget=5.0), 0.02)
    resumed.load_state_dict(control.state_dict())
    resumed.start(1)
    assert resumed.stopped
    assert resumed.within_budget("rollout", 0.0, "") is None


def test_a_reference_is_asked_where_it_is_needed() -> None:
    assert not KLSettings().needs_reference(0.0)
    assert not KLSettings(budget=1.0, budget_on="validation").needs_reference(0.0)
    assert KLSettings(budget=1.0).needs_reference(0.0)
    assert KLSettings().needs_reference(0.1)


def test_no_reference_without_a_penalty() -> None:
    assert not KLControl(KLSettings(), 0.0).needs_reference
    assert KLControl(KLSettings(), 0.1).needs_reference


def test_an_update_ends_by_all_parts_of_a_step() -> None:
    """Two parts with k2 of 0.02 · 3 and 0: 0.01 a token of six."""
    control = KLControl(KLSettings(stop_update=0.009), 0.02)
    control.start(0)
    for ratio in (0.2, 0.0):
        control.moved(torch.full((2, 2), ratio), MicroBatch(experience(), 6.0))
    assert control.skips_step(torch.clone)


def test_no_loss_has_a_gradient_of_zero_for_every_parameter() -> None:
    parameters = [torch.nn.Parameter(torch.full(shape, 3e38)) for shape in ((2, 3), (1,), (4, 1, 2))]
    no_loss(parameters).backward()
    assert all(p.grad is not None and not p.grad.any() for p in parameters)


def test_what_does_not_go_together() -> None:
    with pytest.raises(UserError, match="zero in expectation"):
        KLSettings(place="loss")
    with pytest.raises(UserError, match="multiplying"):
        KLControl(KLSettings(target=6.0), 0.0)
    KLSettings(target=6.0, horizon=512).check_responses(512)
    KLSettings(horizon=1).check_responses(512)  # nothing is adapted
    with pytest.raises(UserError, match=r"above 102.4"):
        KLSettings(target=6.0, horizon=100).check_responses(512)


@pytest.mark.parametrize("key", [{}, {"first_coef"}], ids=["today", "earlier"])
def test_a_changed_coefficient_is_not_that_of_the_checkpoint(key: set[str]) -> None:
    """Checkpoints of earlier versions do not say which one was configured."""
    saved = {k: v for k, v in KLControl(KLSettings(), 0.02).state_dict().items() if k not in key}
    for configured in (0.02, 0.1):
        resumed = KLControl(KLSettings(), configured)
        resumed.load_state_dict(saved)
        resumed.start(3)
        assert resumed.coef == configured
    adaptive = KLControl(KLSettings(target=1.0, horizon=10), 0.02)
    adaptive.start(0)
    adaptive.measured(2.0, 10)
    fixed = KLControl(KLSettings(), 0.02)
    fixed.load_state_dict(adaptive.state_dict())
    fixed.start(1)
    assert fixed.coef == 0.02
