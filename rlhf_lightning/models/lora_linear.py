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

Rows = tuple[tuple[str | None, int], ...]
"""Which adapter reads which rows of an input, part after part: its name (None: none) and a number of rows. Rows that
are left belong to the last part."""


@contextmanager
def active(layers: Sequence[LoraLayer], names: list[str], rows: Rows | None = None) -> Iterator[None]:
    """Run a block with these adapters of the layers active, and leave `requires_grad` alone.

    Args:
        layers: PEFT's layers.
        names: Adapters of all rows.
        rows: Adapters of parts of the rows, in place of `names`; only where `take_rows` says that it can be done.
    """
    before = [state(layer) for layer in layers]
    for layer in layers:
        layer._active_adapter, layer.adapter_rows = names, rows
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer._active_adapter, layer.adapter_rows = old


def state(layer: LoraLayer) -> tuple[list[str], Rows | None]:
    """What `active` has set, as it takes it."""
    return layer._active_adapter, getattr(layer, "adapter_rows", None)


def take_rows(layers: Sequence[LoraLayer], names: Sequence[str | None], like: Tensor) -> bool:
    """Whether every layer computes each of these adapters by its single node, so that rows can have different ones.

    Args:
        layers: PEFT's layers.
        names: Adapters.
        like: A tensor of the dtype and on the device of the layers' inputs.
    """
    dtype = _product_dtype(like)
    return all(
        isinstance(layer, SingleNode) and layer.computes(name, dtype)
        for layer in layers
        for name in names
        if name is not None and name in layer.lora_A
    )


class _LoraProducts(torch.autograd.Function):
    """x Wᵀ + bias + (x Aᵀ) Bᵀ·scale of several layers, with gradients for x, A and B; W is frozen.

    Autograd's own graph of this keeps a cast copy of x for every layer that reads it (query, key and value: three
    times) and writes the output three times; here x is kept once, as it came, and its gradient is summed in place.
    Where rows have different adapters, only the low-rank products are separate. Instead of x there can be its two
    factors, silu(gate) · up, which are there anyway; the backward then multiplies them again.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        gate: Tensor | None,
        bases: list[Any],
        parts: list[tuple[slice, list[float]]],
        *factors: Tensor,
    ) -> tuple[Tensor, ...]:
        """
        Args:
            ctx: Autograd's.
            x: [..., in]; with a gate it is `up`.
            gate: [..., in], or None.
            bases: Frozen layers, L of them.
            parts: Rows of x that have an adapter, and its L scales.
            factors: A [r, in] and B [out, r] of each layer, and so for each part.
        """
        rows = (x if gate is None else F.silu(gate) * x).reshape(-1, x.shape[-1])
        biases = (None if base.bias is None else base.bias.to(x.dtype) for base in bases)
        outs = [F.linear(rows, _weight(base, x.dtype), bias) for base, bias in zip(bases, biases, strict=True)]
        kept = []
        for (span, scales), own in zip(parts, _chunks(factors, 2 * len(bases)), strict=True):
            a = torch.cat(list(own[::2])).to(x.dtype)
            bs = [(b * scale).to(x.dtype) for b, scale in zip(own[1::2], scales, strict=True)]
            low = rows[span] @ a.t()
            for out, b, part in zip(outs, bs, low.split([b.shape[1] for b in bs], 1), strict=True):
                out[span].addmm_(part, b.t())
            kept += [a, low, *bs]
        ctx.save_for_backward(rows if gate is None else x, gate, *kept)
        ctx.bases, ctx.parts, ctx.shape, ctx.dtype = bases, parts, x.shape, factors[0].dtype
        return tuple(out.view(*x.shape[:-1], -1) for out in outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, gate, *kept = ctx.saved_tensors
        up, silu = rows, None
        if gate is not None:
            silu = F.silu(gate)
            rows = (silu * up).reshape(-1, up.shape[-1])
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad_x = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:  # an adapted gate beside an up that is not
            grad_x = flat[0] @ _weight(ctx.bases[0], flat[0].dtype)
            for grad, base in zip(flat[1:], ctx.bases[1:], strict=True):
                grad_x.addmm_(grad, _weight(base, grad.dtype))
        needed = _chunks(ctx.needs_input_grad[4:], 2 * len(flat))
        factors: list[Tensor | None] = []
        for (span, scales), (a, low, *bs), need in zip(ctx.parts, _chunks(kept, 2 + len(flat)), needed, strict=True):
            own = [grad[span] for grad in flat]
            ranks = [b.shape[1] for b in bs]
            grad_low = torch.cat([grad @ b for grad, b in zip(own, bs, strict=True)], 1)
            if grad_x is not None:
                grad_x[span].addmm_(grad_low, a)
            pair: list[Tensor | None] = [None] * len(need)
            if any(need):
                pair[::2] = (grad_low.t() @ rows[span]).to(ctx.dtype).split(ranks)
                zipped = zip(own, low.split(ranks, 1), scales, strict=True)
                pair[1::2] = [(grad.t() @ part).to(ctx.dtype) * scale for grad, part, scale in zipped]
            factors += pair
        grad_gate = None
        if grad_x is not None:
            grad_x = grad_x.view(ctx.shape)
            if silu is not None:
                grad_x, grad_gate = silu.mul_(grad_x), torch.ops.aten.silu_backward(grad_x.mul_(up), gate)
        return grad_x, grad_gate, None, None, *factors


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _products(layers: Sequence[Any], x: Tensor, rows: Rows, gate: Tensor | None = None) -> tuple[Tensor, ...]:
    """Outputs of layers that have the same adapters for the same rows of x, or of silu(gate) · x."""
    parts, factors, start = [], [], 0
    for number, (name, count) in enumerate(rows):
        stop = None if number == len(rows) - 1 else start + count
        if name is not None:
            parts.append((slice(start, stop), [layer.scaling[name] for layer in layers]))
            factors += [f for layer in layers for f in (layer.lora_A[name].weight, layer.lora_B[name].weight)]
        start += count
    x, gate = x.to(_product_dtype(x)), None if gate is None else gate.to(_product_dtype(gate))
    bases = [layer.get_base_layer() for layer in layers]
    # The inputs have the dtype of the product now; autocast would cast the float32 sums back to 16 bit.
    with torch.autocast(x.device.type, enabled=False):
        outputs: tuple[Tensor, ...] = _LoraProducts.apply(x, gate, bases, parts, *factors)
    return outputs


def _weight(base: Any, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] of a frozen layer; that of a quantized one is made anew for each product."""
    weight: Tensor = base.dense(dtype) if isinstance(base, QuantizedLinear) else base.weight
    return weight


class SingleNode(nn.Module):
    """Mixed into a PEFT layer over a frozen linear layer; anything else it is asked for, PEFT computes."""

    adapter_rows: Rows | None = None

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = None if args or kwargs else self.rows(_product_dtype(x))
        return super().forward(x, *args, **kwargs) if rows is None else _products([self], x, rows)[0]  # type: ignore[misc]

    def rows(self: Any, dtype: torch.dtype) -> Rows | None:
        """Which adapters the single node applies to inputs of this dtype; None where PEFT must compute."""
        if self.adapter_rows is not None:
            known = tuple((name if name in self.lora_A else None, count) for name, count in self.adapter_rows)
            return known if any(name for name, _ in known) else None
        name: str | None = self._active_adapter[0] if len(self._active_adapter) == 1 else None
        return ((name, 0),) if name in self.lora_A and self.computes(name, dtype) else None

    def computes(self: Any, name: str, dtype: torch.dtype) -> bool:
        """Whether the single node can apply this adapter, which the layer has, to inputs of this dtype."""
        if self.disable_adapters or self.merged:
            return False
        base: Any = self.get_base_layer()
        dropout: Any = self.lora_dropout[name]
        if name in self.lora_variant or self.lora_bias[name] or (dropout.training and not _does_nothing(dropout)):
            return False
        return isinstance(base, QuantizedLinear) or bool(dtype == base.weight.dtype)


def side_by_side(layers: Sequence[Any], x: Tensor) -> Sequence[Tensor]:
    """The outputs of several layers for one input; where each has a single node with the same adapters, of one node.

    Args:
        layers: Linear layers, adapted or not.
        x: [..., in].
    """
    dtype = _product_dtype(x)
    rows = {layer.rows(dtype) if isinstance(layer, SingleNode) else None for layer in layers}
    same = rows.pop()
    return [layer(x) for layer in layers] if rows or same is None else _products(layers, x, same)


def gated(layer: Any, gate: Tensor, up: Tensor) -> Tensor:
    """A layer's output for silu(gate) · up, which a single node does not keep for its backward.

    Args:
        layer: A linear layer, adapted or not.
        gate: [..., in].
        up: [..., in].
    """
    rows = layer.rows(_product_dtype(up)) if isinstance(layer, SingleNode) else None
    out: Tensor = layer(F.silu(gate) * up) if rows is None else _products([layer], up, rows, gate)[0]
    return out


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
