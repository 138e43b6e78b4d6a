"""RMSNorm as one autograd node: the same numbers, a third of the memory traffic, a fifth of what is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _RmsNorm(torch.autograd.Function):
    """w · x / sqrt(mean(x²) + eps) over the last dimension, in float32 inside; w is frozen.

    Autograd's own graph keeps x three times over, twice of them in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        wide = x.to(torch.float32)
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        normal = x.to(torch.float32) * inverse
        grad = (grad * weight).to(torch.float32)
        along = torch.linalg.vecdot(grad, normal).div_(x.shape[-1]).unsqueeze(-1)
        return (grad - normal * along).mul_(inverse).to(x.dtype), None, None


class SingleNodeNorm(nn.Module):
    """Mixed into a model's own class: `forward` in one node while the weight is frozen, and as it was otherwise."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.weight.requires_grad:
            return super().forward(hidden_states)  # type: ignore[misc, no-any-return]
        return _RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-any-return]


@torch.no_grad()
def use_single_node_norms(model: nn.Module) -> None:
    """Give a model's RMSNorms the single node, where it gives the very numbers that they give themselves."""
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if isinstance(module, SingleNodeNorm) or not isinstance(weight, nn.Parameter) or not isinstance(eps, float):
            continue
        if weight.ndim == 1 and type(module).__name__.endswith("RMSNorm"):
            x = torch.linspace(-3, 5, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
            if torch.equal(module(x), _RmsNorm.apply(x, weight, eps)):
                own = type(module)
                module.__class__ = type(own.__name__, (SingleNodeNorm, own), {})
