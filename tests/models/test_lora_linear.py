"""The single-node LoRA layer against PEFT: outputs and gradients in float64; dropout and other cases are left to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.lora_linear import LoraLinear, side_by_side, use_single_node


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
        assert single(x.detach(), made)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == made.lora_A["a"].weight.grad.dtype == made.lora_B["a"].weight.grad.dtype == torch.float32


def single(x: Tensor, made: Linear) -> bool:
    """Whether a layer's output comes from the single node."""
    out = made(x.clone().requires_grad_())
    nodes = [out.grad_fn] + [n for n, _ in out.grad_fn.next_functions]
    return any("LoraProduct" in type(n).__name__ for n in nodes)


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("dropout", [nn.Identity(), nn.Dropout(0.0)])
def test_one_node_in_training(dropout: nn.Module) -> None:
    made = layer(True)
    use_single_node(made)
    made.lora_dropout["a"] = dropout
    assert made.training
    assert single(X, made)


def test_dropout_in_evaluation_is_our_own() -> None:
    made = layer(True, dropout=0.5)
    use_single_node(made)
    assert not single(X, made)
    assert single(X, made.eval())


def second_adapter(made: Linear) -> None:
    config = LoraSettings(rank=2, alpha=7.0).peft_config()
    made.update_layer("b", 2, lora_alpha=7.0, config=config)
    made.to(torch.float64)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for part in (made.lora_A, made.lora_B):
            part["b"].weight.copy_(torch.randn(part["b"].weight.shape, generator=generator))


CASES: dict[str, Callable[[Any], object]] = {
    "disabled": lambda made: setattr(made, "_disable_adapters", True),
    "merged": lambda made: made.merge(),
    "two adapters": lambda made: (second_adapter(made), setattr(made, "_active_adapter", ["a", "b"])),
    "the second adapter": lambda made: (second_adapter(made), setattr(made, "_active_adapter", ["b"])),
    "a bias": lambda made: (made.lora_bias.update(a=True), setattr(made.lora_B["a"], "bias", bias())),
}


def bias() -> nn.Parameter:
    return nn.Parameter(torch.arange(4.0, dtype=torch.float64))


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_to_peft(name: str) -> None:
    """The same output as PEFT's own layer in the same state."""
    theirs, ours = layer(True), layer(True)
    use_single_node(ours)
    for made in (theirs, ours):
        CASES[name](made)
    outs = [made(X) for made in (theirs, ours)]
    assert torch.allclose(*outs, rtol=0, atol=1e-12)
    assert single(X, ours) == (name == "the second adapter")


def test_a_float32_base_under_16_bit_autocast() -> None:
    made = layer(True, dtype=torch.float32)
    use_single_node(made)
    with torch.autocast("cpu", torch.bfloat16):
        out = made(X.float())
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), layer(True, dtype=torch.float32)(X.float()), rtol=0.05, atol=0.05)


def test_arguments_go_to_peft() -> None:
    made = layer(True)
    use_single_node(made)
    with pytest.raises(TypeError):
        made(X, nonsense=1)


def test_variants_go_to_peft() -> None:
    made = layer(True)
    use_single_node(made)
    made.lora_variant["a"] = SimpleNamespace(forward=lambda *args, **kwargs: torch.full((5, 4), 7.0))
    assert (made(X) == 7).all()


def test_other_layers_stay_pefts() -> None:
    class Other(Linear):
        """A subclass may do anything."""

    class Quantized(nn.Linear):
        """So may a subclass of the base."""

    made = layer(False)
    made.__class__ = Other
    use_single_node(made)
    assert type(made) is Other
    made = layer(False)
    made.base_layer.__class__ = Quantized
    use_single_node(made)
    assert type(made) is Linear


def three(dtype: torch.dtype = torch.float64) -> list[Linear]:
    """Layers over one input with sizes, ranks and scales of their own; the second has no bias."""
    made = []
    for i in range(3):
        torch.manual_seed(i)
        config = LoraSettings(rank=i + 1, alpha=5.0 + i).peft_config()
        one = Linear(nn.Linear(6, 4 + i, bias=i != 1), "a", config, r=i + 1, lora_alpha=5.0 + i).to(dtype)
        nn.init.normal_(one.lora_B["a"].weight)
        one.base_layer.requires_grad_(False)
        use_single_node(one)
        made.append(one.eval())
    return made


def outcomes(layers: list[Linear], outs: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    trained = [x, *(p for one in layers for p in (one.lora_A["a"].weight, one.lora_B["a"].weight))]
    total = torch.stack([(out * torch.arange(out.numel()).view(out.shape)).sum() for out in outs]).sum()
    return [*outs, *torch.autograd.grad(total, [t for t in trained if t.requires_grad])]


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)])
@pytest.mark.parametrize("frozen", [True, False])
def test_side_by_side_is_one_after_another(shape: tuple[int, ...], frozen: bool) -> None:
    layers = three()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_(not frozen)
    outs = side_by_side(layers, x)
    assert len({out.grad_fn for out in outs}) == 1
    ours, theirs = outcomes(layers, outs, x), outcomes(layers, [one(x) for one in layers], x)
    assert all(a.shape == b.shape and torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_side_by_side_under_autocast() -> None:
    layers = three(torch.float32)
    for one in layers:
        one.base_layer.to(torch.bfloat16)
    x = torch.randn(5, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outs = side_by_side(layers, x)
        expected = [one(x) for one in layers]
    assert len({out.grad_fn for out in outs}) == 1
    assert all(a.dtype == torch.bfloat16 and torch.equal(a, b) for a, b in zip(outs, expected, strict=True))
    ours = outcomes(layers, [out.float() for out in outs], x)
    assert all(t.dtype == torch.float32 for t in ours)


def test_side_by_side_of_frozen_adapters() -> None:
    layers = [one.requires_grad_(False) for one in three()]
    x = X.clone().requires_grad_()
    ours, theirs = (
        outcomes(layers, f(x), x) for f in (lambda x: side_by_side(layers, x), lambda x: [o(x) for o in layers])
    )
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_layers_that_differ_go_one_by_one() -> None:
    """One of them with another adapter, without one, or of another kind; or all without any."""
    layers = three()
    for change in (
        lambda: second_adapter(layers[1]) or layers[1].__setattr__("_active_adapter", ["b"]),
        lambda: layers[1].__setattr__("_active_adapter", []),
        lambda: layers.append(nn.Linear(6, 2).double()),
    ):
        change()
        outs = side_by_side(layers, X)
        assert len({out.grad_fn for out in outs}) == len(layers)
        assert all(torch.equal(a, one(X)) for a, one in zip(outs, layers, strict=True))
    bare = three()
    for one in bare:
        one._active_adapter = []
    assert all(torch.equal(a, one.base_layer(X)) for a, one in zip(side_by_side(bare, X), bare, strict=True))
