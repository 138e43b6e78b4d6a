"""PEFT's LoRA layer with one autograd node instead of eight: same parameters, same result, half the memory traffic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from rlhf_lightning.models.quantized import QuantizedLinear


@contextmanager
def active(layers: Sequence[LoraLayer], names: list[str]) -> Iterator[None]:
    """Run a block with these adapters of the layers active, and leave `requires_grad` alone."""
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = names
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer._active_adapter = old


class _LoraProduct(torch.autograd.Function):
    """x Wᵀ + bias + (x Aᵀ) Bᵀ·scale, with gradients for x, A and B; W is frozen.

    Autograd's own graph of this keeps a cast copy of x for every layer that reads it (query, key and value: three
    times) and writes the output three times; here x is kept once, as it came.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, base: Any, lora_a: Tensor, lora_b: Tensor, scale: float
    ) -> Tensor:
        a, b = lora_a.to(x.dtype), (lora_b * scale).to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.t()
        bias = None if base.bias is None else base.bias.to(x.dtype)
        out = F.linear(rows, _weight(base, x.dtype), bias).addmm_(low, b.t())
        ctx.save_for_backward(rows, a, b, low)
        ctx.base, ctx.scale, ctx.shape, ctx.dtype = base, scale, x.shape, lora_a.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, a, b, low = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_low = grad @ b
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ _weight(ctx.base, grad.dtype)).addmm_(grad_low, a).view(ctx.shape)
        grad_a = (grad_low.t() @ rows).to(ctx.dtype) if ctx.needs_input_grad[2] else None
        grad_b = (grad.t() @ low).to(ctx.dtype) * ctx.scale if ctx.needs_input_grad[3] else None
        return grad_x, None, grad_a, grad_b, None


class _LoraProducts(torch.autograd.Function):
    """Several of these products of one input: the low-rank ones of x are one, and x's gradient is summed in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bases: list[Any], scales: list[float], *factors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        rows, ranks = x.reshape(-1, x.shape[-1]), [len(a) for a in factors[::2]]
        a = torch.cat(factors[::2]).to(x.dtype)
        bs = [(b * scale).to(x.dtype) for b, scale in zip(factors[1::2], scales, strict=True)]
        low = rows @ a.t()
        outs = []
        for base, b, part in zip(bases, bs, low.split(ranks, 1), strict=True):
            bias = None if base.bias is None else base.bias.to(x.dtype)
            outs.append(F.linear(rows, _weight(base, x.dtype), bias).addmm_(part, b.t()))
        ctx.save_for_backward(rows, a, low, *bs)
        ctx.bases, ctx.scales, ctx.ranks, ctx.shape, ctx.dtype = bases, scales, ranks, x.shape, factors[0].dtype
        return tuple(out.view(*x.shape[:-1], -1) for out in outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, a, low, *bs = ctx.saved_tensors
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad_low = torch.cat([grad @ b for grad, b in zip(flat, bs, strict=True)], 1)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_low @ a
            for grad, base in zip(flat, ctx.bases, strict=True):
                grad_x.addmm_(grad, _weight(base, grad.dtype))
            grad_x = grad_x.view(ctx.shape)
        factors: list[Any] = [None] * 2 * len(flat)
        if any(ctx.needs_input_grad[3:]):
            factors[::2] = (grad_low.t() @ rows).to(ctx.dtype).split(ctx.ranks)
            parts = zip(flat, low.split(ctx.ranks, 1), ctx.scales, strict=True)
            factors[1::2] = [(grad.t() @ part).to(ctx.dtype) * scale for grad, part, scale in parts]
        return grad_x, None, None, *factors


def _weight(base: Any, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] of a frozen layer; that of a quantized one is made anew for each product."""
    weight: Tensor = base.dense(dtype) if isinstance(base, QuantizedLinear) else base.weight
    return weight


class SingleNode(nn.Module):
    """Mixed into a PEFT layer over a frozen linear layer; anything else it is asked for, PEFT computes."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        dtype = _product_dtype(x)
        name = None if args or kwargs else self.own_adapter(dtype)
        if name is None:
            return super().forward(x, *args, **kwargs)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        # The inputs have the dtype of the product already; autocast would cast the float32 sums back to 16 bit.
        with torch.autocast(x.device.type, enabled=False):
            return _LoraProduct.apply(x.to(dtype), self.get_base_layer(), a, b, self.scaling[name])

    def own_adapter(self: Any, dtype: torch.dtype) -> str | None:
        """The adapter that the single node applies to inputs of this dtype; None where PEFT must compute."""
        name: str | None = self._active_adapter[0] if len(self._active_adapter) == 1 else None
        if name not in self.lora_A or self.disable_adapters or self.merged:
            return None
        base: Any = self.get_base_layer()
        dropout: Any = self.lora_dropout[name]
        if name in self.lora_variant or self.lora_bias[name] or (dropout.training and not _does_nothing(dropout)):
            return None
        return name if isinstance(base, QuantizedLinear) or dtype == base.weight.dtype else None


def side_by_side(layers: Sequence[Any], x: Tensor) -> Sequence[Tensor]:
    """The outputs of several layers for one input; where each has a single node with the same adapter, of one node.

    Args:
        layers: Linear layers, adapted or not.
        x: [..., in].
    """
    dtype = _product_dtype(x)
    names = {layer.own_adapter(dtype) if isinstance(layer, SingleNode) else None for layer in layers}
    name = names.pop()
    if names or name is None:
        return [layer(x) for layer in layers]
    factors = [f for layer in layers for f in (layer.lora_A[name].weight, layer.lora_B[name].weight)]
    bases, scales = [layer.get_base_layer() for layer in layers], [layer.scaling[name] for layer in layers]
    with torch.autocast(x.device.type, enabled=False):
        outputs: tuple[Tensor, ...] = _LoraProducts.apply(x.to(dtype), bases, scales, *factors)
    return outputs


def _product_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class LoraLinear(SingleNode, Linear):
    """Over an `nn.Linear`."""


@cache
def _single_node(own: type) -> type:
    return type(f"Lora{own.__name__}", (SingleNode, own), {})


def use_single_node(layer: Any) -> None:
    """Give a PEFT layer over a frozen `nn.Linear` or `QuantizedLinear` the single node; leave any other as it is."""
    base = layer.get_base_layer()
    if type(layer) is Linear and type(base) is nn.Linear:
        layer.__class__ = LoraLinear
    elif isinstance(base, QuantizedLinear) and not isinstance(layer, SingleNode):
        own: Any = type(layer)
        layer.__class__ = _single_node(own)


def _does_nothing(dropout: nn.Module) -> bool:
    return isinstance(dropout, nn.Identity) or getattr(dropout, "p", None) == 0.0
