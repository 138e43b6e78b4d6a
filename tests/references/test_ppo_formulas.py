"""PPO's functions against their references."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lightning.masked import masked_mean, masked_moments, masked_sum, whiten
from rlhf_lightning.ppo.advantages import gae
from rlhf_lightning.ppo.buffer import explained_variance
from rlhf_lightning.ppo.kl import Estimator, kl_k1, kl_k2, kl_k3, kl_loss
from rlhf_lightning.ppo.loss import policy_loss, ptx_loss, value_loss
from rlhf_lightning.ppo.rewards import penalize_missing_eos, token_rewards
from tests.references import ppo_formulas as formulas
from tests.references.agreement import Batch, Layout, assert_agree, batches, fast

GAMMA = st.sampled_from([1.0, 0.9])
LAMBDA = st.sampled_from([0.95, 0.0, 0.5, 1.0])
CLIP = st.sampled_from([0.2, 0.05, 1.0])


@fast
@given(batches(), GAMMA, LAMBDA)
def test_advantages(batch: Batch, gamma: float, lam: float) -> None:
    assert_agree(
        batch,
        2,
        lambda mask, r, v: gae(r, v, mask, gamma, lam)[0],
        lambda r, v: formulas.advantages(r, v, gamma, lam),
    )


@fast
@given(batches(), GAMMA, LAMBDA)
def test_returns(batch: Batch, gamma: float, lam: float) -> None:
    assert_agree(
        batch,
        2,
        lambda mask, r, v: gae(r, v, mask, gamma, lam)[1],
        lambda r, v: formulas.returns(r, v, gamma, lam),
    )


@pytest.mark.parametrize(("name", "estimator"), [("k1", kl_k1), ("k2", kl_k2), ("k3", kl_k3)])
def test_kl_estimators(name: str, estimator: object) -> None:
    """They take no mask: padded slots are 0 in both, as everywhere in the package."""

    @fast
    @given(batches())
    def run(batch: Batch) -> None:
        assert_agree(
            batch,
            2,
            lambda mask, p, q: estimator(p, q),  # type: ignore[operator]
            lambda p, q: formulas.kl(p, q, name),
            poison=False,
        )

    run()


@fast
@given(batches(), st.sampled_from(["k1", "k2", "k3"]))
def test_kl_loss(batch: Batch, estimator: Estimator) -> None:
    n = batch.num_tokens
    assert_agree(
        batch,
        2,
        lambda mask, new, reference: kl_loss(estimator, new, reference, mask, n),
        lambda new, reference: formulas.kl_loss(new, reference, estimator, n),
    )


def test_kl_estimators_have_the_divergence_as_their_expectation() -> None:
    """Exact expectations over a vocabulary of four: k1 and k3 are unbiased, k2 is off by third-order terms."""
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    q = torch.tensor([0.35, 0.3, 0.2, 0.15], dtype=torch.float64)
    divergence = (p * (p / q).log()).sum()
    assert (p * kl_k1(p.log(), q.log())).sum().item() == pytest.approx(divergence.item(), abs=1e-15)
    assert (p * kl_k3(p.log(), q.log())).sum().item() == pytest.approx(divergence.item(), abs=1e-15)
    biased = (p * kl_k2(p.log(), q.log())).sum().item()
    assert biased != pytest.approx(divergence.item(), abs=1e-6)
    assert biased == pytest.approx(divergence.item(), rel=0.1)


def test_k3_keeps_its_digits_between_close_distributions() -> None:
    """At a log-ratio of 1e-3 k3 is 5e-7, and float32's `exp(x) - 1 - x` would be wrong by a tenth of that."""
    assert kl_k3(torch.tensor(0.0), torch.tensor(1e-3)).item() == pytest.approx(5.0017e-7, rel=1e-3)


@fast
@given(batches(), st.sampled_from([0.02, 0.0, 1.5]))
def test_token_rewards(batch: Batch, beta: float) -> None:
    assert_agree(
        batch,
        2,
        lambda mask, scores, kl: token_rewards(scores[:, 0], kl, mask, beta),
        lambda scores, kl: formulas.token_rewards([row[0] for row in scores], kl, beta),
    )


@fast
@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=5), st.floats(0, 3))
def test_missing_eos(rows: list[tuple[float, bool]], penalty: float) -> None:
    scores, truncated = [torch.tensor(s, dtype=torch.float64) for s, _ in rows], [cut for _, cut in rows]
    expected = torch.stack(formulas.penalized(scores, truncated, penalty))
    found = penalize_missing_eos(torch.stack(scores), torch.tensor(truncated), penalty)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert penalize_missing_eos(torch.stack(scores).float(), torch.tensor(truncated), penalty).dtype == torch.float32


@fast
@given(batches())
def test_masked_moments_and_sums(batch: Batch) -> None:
    for index in (0, 1):
        assert_agree(
            batch,
            1,
            lambda mask, x, i=index: masked_moments(x, mask)[i],  # type: ignore[misc]
            lambda x, i=index: formulas.moments(x)[i],  # type: ignore[misc]
        )
    assert_agree(batch, 1, lambda mask, x: masked_mean(x, mask), lambda x: formulas.moments(x)[0])
    assert_agree(batch, 1, lambda mask, x: masked_sum(x, mask), lambda x: formulas.total(formulas.flat(x)))


def test_statistics_of_nothing_are_zero() -> None:
    x, mask = torch.full((2, 3), torch.nan), torch.zeros(2, 3, dtype=torch.bool)
    assert masked_mean(x, mask) == 0
    assert [moment.item() for moment in masked_moments(x, mask)] == [0, 0]


def test_moments_are_float64_whatever_comes_in() -> None:
    """A variance of 1 around 10^6: float32 has one digit for a square of 10^12."""
    x = 1e6 + torch.tensor([-1.0, 1.0])
    mean, var = masked_moments(x, torch.ones(2, dtype=torch.bool))
    assert (mean.item(), var.item()) == (1e6, 1.0)
    whitened = whiten(x, torch.ones(2, dtype=torch.bool))
    assert whitened.tolist() == [-1.0, 1.0]
    assert whitened.dtype == torch.float32


@fast
@given(batches(), st.booleans())
def test_whitening(batch: Batch, shift_mean: bool) -> None:
    assert_agree(
        batch, 1, lambda mask, x: whiten(x, mask, shift_mean), lambda x: formulas.whitened(x, shift_mean=shift_mean)
    )


def test_whitening_over_two_processes_is_that_of_all_rows() -> None:
    batch = Batch([4, 2, 5, 1], 0, 1.0)
    rows = batch.numbers(1)[0]
    x = torch.tensor([row + [0.0] * (5 - len(row)) for row in rows], dtype=torch.float64)
    mask = torch.tensor([[t < len(row) for t in range(5)] for row in rows])
    parts: list[Tensor] = [torch.zeros(()), torch.zeros(())]
    out: dict[int, Tensor] = {}
    barrier = threading.Barrier(2, timeout=10)

    def process(rank: int) -> None:
        def reduce(own: Tensor) -> Tensor:
            parts[rank] = own
            barrier.wait()
            both = parts[0] + parts[1]
            barrier.wait()
            return both

        own_rows = slice(0, 1) if rank == 0 else slice(1, 4)
        out[rank] = whiten(x[own_rows], mask[own_rows], reduce=reduce)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.allclose(torch.cat([out[0], out[1]]), whiten(x, mask), rtol=0, atol=1e-12)


@fast
@given(batches(), CLIP)
def test_policy_loss(batch: Batch, clip: float) -> None:
    n = batch.num_tokens
    assert_agree(
        batch,
        3,
        lambda mask, new, old, adv: policy_loss(new, old, adv, mask, clip, n),
        lambda new, old, adv: formulas.policy_loss(new, old, adv, clip, n),
    )


@fast
@given(batches(), st.sampled_from([0.2, None, 1.0]))
def test_value_loss(batch: Batch, clip: float | None) -> None:
    n = batch.num_tokens
    assert_agree(
        batch,
        3,
        lambda mask, new, old, ret: value_loss(new, old, ret, mask, clip, n),
        lambda new, old, ret: formulas.value_loss(new, old, ret, clip, n),
    )


@fast
@given(batches())
def test_ptx_loss(batch: Batch) -> None:
    n = batch.num_tokens
    assert_agree(batch, 1, lambda mask, x: ptx_loss(x, mask, n), lambda x: formulas.ptx_loss(x, n))


@fast
@given(batches())
def test_explained_variance(batch: Batch) -> None:
    """Values only: it is a diagnostic, and without variance its slope is 10^12."""
    assert_agree(
        batch,
        2,
        lambda mask, v, r: explained_variance(v, r, mask),
        formulas.explained_variance,
        gradients=False,
    )


@pytest.mark.parametrize("loss", ["policy", "value", "ptx"])
def test_splitting_a_step_changes_no_gradient(loss: str) -> None:
    """Up to the order of sums: the losses are shares of the step's, whatever rows a micro-batch has."""
    batch = Batch([5, 2, 4, 1], 7, 1.0)
    layout = Layout("", 0.0, 0, [0, 1, 2, 3])
    new, old, adv = (layout.tensor(rows) for rows in batch.numbers(3))
    mask = layout.mask(batch.numbers(1)[0])

    def gradient(parts: list[slice]) -> Tensor:
        x = new.clone().requires_grad_()
        for p in parts:
            if loss == "policy":
                policy_loss(x[p], old[p], adv[p], mask[p], 0.2, 12.0).backward()
            elif loss == "value":
                value_loss(x[p], old[p], adv[p], mask[p], 0.2, 12.0).backward()
            else:
                ptx_loss(x[p], mask[p], 12.0).backward()
        assert x.grad is not None
        return x.grad

    whole = gradient([slice(0, 4)])
    assert whole.abs().max() > 0.01
    assert torch.allclose(whole, gradient([slice(0, 1), slice(1, 4)]), rtol=0, atol=1e-15)
