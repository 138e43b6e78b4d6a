"""Layers of Llama-like models in fewer and larger operations, for forwards without padding.

At a few hundred tokens a layer is some hundred small operations, which take longer than its matrix products. Here
query, key and value are one node and so are gate and up, the rotation has a backward of three operations in place of a
dozen, and nothing is transposed on the way to attention. In the forward every number is the model's own, bit for bit,
where no adapter is active.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf_lightning.models.lora_linear import gated, side_by_side
from rlhf_lightning.models.ragged_attention import attend

MODELS = ("llama", "mistral", "qwen2")
"""Values of `model_type` whose layers are those below; a forward is compared with the model's own all the same."""


class _Rotation(torch.autograd.Function):
    """Rotary embedding: x [N, H, D] turned by angles with cos and sin [N, D], first half against second half."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[override]
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        ctx.save_for_backward(cos, sin)
        ctx.dtype, half = x.dtype, x.shape[-1] // 2
        x = x.to(torch.promote_types(x.dtype, cos.dtype))
        out = x * cos
        # Rounded as the model's own: in 16 bit a deep model makes a few per cent of any other rounding.
        out[..., :half] -= x[..., half:] * sin[..., :half]
        out[..., half:] += x[..., :half] * sin[..., half:]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        half = grad.shape[-1] // 2
        out = grad * cos
        out[..., :half].addcmul_(grad[..., half:], sin[..., half:])
        out[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
        return out.to(ctx.dtype), None, None


class LeanAttention(nn.Module):
    """Mixed into a model's own class; padded batches and cached keys go the model's own way."""

    def forward(
        self: Any, hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        """[1, N, H] to [1, N, H], and None for the probabilities."""
        layout = kwargs.get("ragged")
        if layout is None or kwargs.get("past_key_values") is not None:
            return super().forward(  # type: ignore[misc]
                hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask, **kwargs
            )
        projected = side_by_side((self.q_proj, self.k_proj, self.v_proj), hidden_states[0])
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in projected)
        cos, sin = (part[0] for part in position_embeddings)
        q, k = (_Rotation.apply(x, cos, sin) for x in (q, k))
        out = attend(q, k, v, layout, self.scaling, self.attention_dropout if self.training else 0.0)
        return self.o_proj(out.flatten(1)).unsqueeze(0), None


class LeanMlp(nn.Module):
    """Mixed into a model's own class."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """[..., H] to [..., H]."""
        gate, up = side_by_side((self.gate_proj, self.up_proj), x)
        if torch.is_grad_enabled():
            return gated(self.down_proj, gate, up)
        # Without a backward nobody needs the factors any more, and fresh memory costs as much as the product.
        out: Tensor = self.down_proj(F.silu(gate, inplace=True).mul_(up))
        return out


def is_lean(lm: Any) -> bool:
    """Whether a model has these layers: each of their linear layers gets all tokens, once and in order."""
    layers: Any = getattr(lm.base_model, "layers", ())
    return len(layers) > 0 and all(
        isinstance(getattr(layer, "self_attn", None), LeanAttention)
        and isinstance(getattr(layer, "mlp", None), LeanMlp)
        for layer in layers
    )


@cache
def _lean(mixed_in: type, own: type) -> type:
    return type(own.__name__, (mixed_in, own), {})


@contextmanager
def lean_layers(lm: Any) -> Iterator[None]:
    """Give a model these layers, and its own back if the block, which is there to compare them, fails.

    Raises:
        ValueError: It is not one of `MODELS`.
    """
    if lm.config.model_type not in MODELS or lm.config.hidden_act != "silu":
        raise ValueError(f"{lm.config.model_type} layers are unknown")
    before = []
    for layer in lm.base_model.layers:
        for module, mixed_in in ((layer.self_attn, LeanAttention), (layer.mlp, LeanMlp)):
            before.append((module, type(module)))
            own: Any = type(module)
            module.__class__ = _lean(mixed_in, own)
    try:
        yield
    except BaseException:
        for module, own in before:
            module.__class__ = own
        raise
