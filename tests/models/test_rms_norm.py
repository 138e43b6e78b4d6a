"""RMSNorm in one node: bit for bit the model's own output, its gradient, and nothing for norms of another kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rlhf_lightning.models.rms_norm import SingleNodeNorm, use_single_node_norms


def norm(dtype: torch.dtype) -> Any:
    made = LlamaRMSNorm(24, 1e-5)
    nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(0))
    return nn.Sequential(made.to(dtype).requires_grad_(False))


def outcome(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out, *torch.autograd.grad((out * slope).sum(), x)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24)])
def test_outputs_are_equal_and_gradients_agree(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(2))).to(dtype)
    model = norm(dtype)
    theirs, gradient = outcome(model, x)
    use_single_node_norms(model)
    assert isinstance(model[0], SingleNodeNorm)
    assert isinstance(model[0], LlamaRMSNorm)
    ours, other = outcome(model, x)
    assert torch.equal(ours, theirs)
    assert other.dtype == dtype
    assert torch.allclose(other.float(), gradient.float(), rtol=0, atol=10 * torch.finfo(dtype).eps)


def test_a_norm_that_is_trained_keeps_its_own_graph() -> None:
    model = norm(torch.float32).requires_grad_(True)
    use_single_node_norms(model)
    model(torch.randn(2, 24)).sum().backward()
    assert model[0].weight.grad is not None


def test_another_formula_stays_as_it_is() -> None:
    """Gemma's weight is counted from 1."""
    model = nn.Sequential(GemmaRMSNorm(24))
    model[0].variance_epsilon = model[0].eps
    use_single_node_norms(model)
    assert type(model[0]) is GemmaRMSNorm
