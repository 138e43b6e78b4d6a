"""The single-node LoRA layer against PEFT: outputs and gradients in float64; dropout and other cases are left to it."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.lora_linear import LoraLinear, use_single_node


def layer(bias: bool, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Linear:
    torch.manual_seed(0)
    config = LoraSettings(rank=3, alpha=5.0, dropout=dropout).peft_config()
    made = Linear(nn.Linear(6, 4, bias=bias), "a", config, r=3, lora_alpha=5.0).to(dtype)
    made.lora_dropout["a"] = nn.Dropout(dropout) if dropout else nn.Identity()
    nn.init.normal_(made.lora_B["a"].weight)
    made.base_layer.requires_grad_(False)
    return made


def outcome(made: Linear, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    out = made(x)
    trained = [x, made.lora_A["a"].weight, made.lora_B["a"].weight]
    return [out, *torch.autograd.grad((out * torch.arange(out.numel()).view(out.shape)).sum(), trained)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6)])
def test_outputs_and_gradients_are_pefts(bias: bool, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    theirs = outcome(layer(bias), x)
    made = layer(bias)
    use_single_node(made)
    assert type(made) is LoraLinear
    ours = outcome(made, x)
    assert all(a.shape == b.shape and torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_dropout_is_left_to_peft() -> None:
    x = torch.randn(5, 6, dtype=torch.float64)
    plain, made = layer(False, dropout=0.5), layer(False, dropout=0.5)
    use_single_node(made)
    assert all(torch.equal(a, b) for a, b in zip(outcome(made, x), outcome(plain, x), strict=True))
    made.eval()
    assert not torch.allclose(outcome(made, x)[0], outcome(plain, x)[0])


def test_no_adapter_is_the_base_exactly() -> None:
    x = torch.randn(5, 6, dtype=torch.float64)
    made = layer(True)
    use_single_node(made)
    made._active_adapter = []
    assert torch.equal(made(x), made.base_layer(x))
    made._active_adapter = ["other"]
    assert torch.equal(made(x), made.base_layer(x))


def test_16_bit_autocast_gives_16_bit_outputs_and_float32_gradients() -> None:
    made = layer(False, dtype=torch.float32)
    made.base_layer.to(torch.bfloat16)
    use_single_node(made)
    x = torch.randn(5, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = made(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == made.lora_A["a"].weight.grad.dtype == made.lora_B["a"].weight.grad.dtype == torch.float32
