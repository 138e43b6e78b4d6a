"""Log-probabilities under an unembedding that is not trained: precision, and what is kept for the backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlhf_lightning import logprobs as logprobs_module
from rlhf_lightning.logprobs import token_logprobs


def test_a_frozen_unembedding_in_16_bit_gives_float32() -> None:
    """Sums over the vocabulary are float32 numbers, though logits and gradient have 16 bit; a bias takes part."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(8, 300).to(torch.bfloat16).requires_grad_(False)
    layer.weight.copy_(torch.randn(300, 8, generator=generator))
    layer.bias.copy_(torch.randn(300, generator=generator))
    hidden = torch.randn(5, 8, generator=generator).to(torch.bfloat16).requires_grad_()
    targets = torch.tensor([0, 299, 7, 8, 9])
    found, entropy = token_logprobs(hidden, targets, layer)
    log_p = torch.log_softmax(layer(hidden).double(), -1)
    assert found.dtype == entropy.dtype == torch.float32
    assert not entropy.requires_grad
    assert torch.allclose(found.double(), log_p[range(5), targets], rtol=0, atol=1e-5)
    assert torch.allclose(entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=0, atol=1e-5)
    with torch.no_grad():
        assert all(map(torch.equal, token_logprobs(hidden.detach(), targets, layer), (found, entropy)))
    found.sum().backward()
    exact = layer.weight.double()[targets] - log_p.exp() @ layer.weight.double()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    assert (hidden.grad - exact).norm() < 0.02 * exact.norm()


def test_the_gradient_of_float32_states_is_not_rounded_again() -> None:
    """The products have 16 bit under autocast; what comes after multiplies them in the precision of the states."""
    layer = torch.nn.Linear(8, 30).to(torch.bfloat16).requires_grad_(False)
    hidden, targets = torch.randn(5, 8, requires_grad=True), torch.zeros(5, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = token_logprobs(hidden, targets, layer)
    (one,) = torch.autograd.grad(found.sum(), hidden, retain_graph=True)
    (third,) = torch.autograd.grad(found.sum() / 3, hidden)
    assert one.any()
    assert torch.allclose(third, one / 3, rtol=1e-6, atol=0)


def test_autocast_does_not_round_the_entropy() -> None:
    layer = torch.nn.Linear(8, 3000).to(torch.bfloat16).requires_grad_(False)
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, entropy = token_logprobs(hidden, torch.arange(5), layer)
    log_p = torch.log_softmax(layer(hidden).double(), -1)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert torch.allclose(entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=0, atol=1e-4)


def test_a_trained_unembedding_gets_its_gradient() -> None:
    layer, hidden = torch.nn.Linear(3, 4), torch.randn(5, 3)
    found, _ = token_logprobs(hidden, torch.zeros(5, dtype=torch.long), layer)
    expected = torch.autograd.grad(torch.log_softmax(layer(hidden), -1)[:, 0].sum(), list(layer.parameters()))
    ours = torch.autograd.grad(found.sum(), list(layer.parameters()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, expected, strict=True))


def test_no_logits_are_kept_for_the_backward_of_a_frozen_unembedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs_module, "chunk_rows", lambda device: 2)
    layer = torch.nn.Linear(3, 50).requires_grad_(False)
    rows: list[int] = []
    layer.register_forward_hook(lambda _, inputs, out: rows.append(len(inputs[0])))
    saved: list[torch.Size] = []

    def keep(x: Tensor) -> Tensor:
        saved.append(x.shape)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        found, _ = token_logprobs(torch.randn(5, 3, requires_grad=True), torch.zeros(5, dtype=torch.long), layer)
    assert saved == [(5, 3)]
    found.sum().backward()
    assert rows == [2, 2, 1]  # once, and none again in the backward
