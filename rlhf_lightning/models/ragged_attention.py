"""Attention over a `RaggedLayout`, as an implementation that transformers' models can be set to."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlhf_lightning.models.ragged import Block, RaggedLayout

NAME = "sdpa_or_ragged"
"""Value of `attn_implementation`: "sdpa" for padded batches, and ragged where a layout is given."""

SMALL = 200 * 200
"""Scores of a row up to which PyTorch's kernels on the CPU are slower than matrix products: they work in blocks of 256
columns, and the backward of 8 rows of 128 takes it as long as of 8 rows of 250 (33 ms against 11 ms)."""


class _CpuAttention(torch.autograd.Function):
    """Attention block by block. q [N, H, D], k and v [N, G, D] where H is a multiple of G; output [N, H, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: RaggedLayout, scale: float) -> Tensor:  # type: ignore[override]
        outputs, kept = [], []
        for block in layout.blocks:
            qb, kb, vb = _rows(q, block.queries), _rows(k, block.keys), _rows(v, block.keys)
            part = _small_forward if _is_small(block, layout) else _large_forward
            out, own = part(qb, kb, vb, block, scale)
            outputs.append(out.transpose(1, 2).flatten(0, 1))
            kept.extend(own)
        out = _placed(outputs, layout, len(q))
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, *kept = ctx.saved_tensors
        layout: RaggedLayout = ctx.layout
        grads_q, grads_k, grads_v = [], [], []
        for block in layout.blocks:
            qb, kb, vb = _rows(q, block.queries), _rows(k, block.keys), _rows(v, block.keys)
            # A padded query repeats some real one; its gradient must be nothing.
            gb = _rows(grad, block.queries) * block.query_valid[:, None, :, None]
            if _is_small(block, layout):
                gq, gk, gv = _small_backward(gb, qb, kb, vb, kept.pop(0), ctx.scale)
            else:
                gq, gk, gv = _large_backward(gb, qb, kb, vb, kept.pop(0), kept.pop(0), block, ctx.scale)
            grads_q.append(gq.transpose(1, 2).flatten(0, 1))
            grads_k.append(gk.transpose(1, 2).flatten(0, 1))
            grads_v.append(gv.transpose(1, 2).flatten(0, 1))
        gather, size = _sum_by_token if layout.shared else _placed, len(q)
        grad_k, grad_v = gather(grads_k, layout, size), gather(grads_v, layout, size)
        return _placed(grads_q, layout, size), grad_k, grad_v, None, None


def _is_small(block: Block, layout: RaggedLayout) -> bool:
    return layout.products and block.width * block.keys.shape[1] <= SMALL


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """[N, H, D] to [B, H, T, D]."""
    return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:]).transpose(1, 2)


def _repeated(x: Tensor, repeats: int) -> Tensor:
    return x if repeats == 1 else x.repeat_interleave(repeats, 1)


def _small_forward(q: Tensor, k: Tensor, v: Tensor, block: Block, scale: float) -> tuple[Tensor, list[Tensor]]:
    """Outputs [B, H, Q, D] by matrix products over all rows and heads, and the probabilities, in the inputs' precision.

    Heads that share a key are rows of one product, so keys are not repeated.
    """
    (rows, heads, width, size), groups = q.shape, k.shape[1]
    # Scores in float32 as in the kernel: 16 bit would put an error of 2^-8 times their size into the exponent. Outputs
    # in float32 too: the kernel rounds before it divides by the sum, so the largest probability is exact there.
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = q.reshape(rows * groups, -1, size).to(wide), k.flatten(0, 1).to(wide)
    bias = block.bias.to(wide).repeat(heads // groups, 1)
    p = torch.baddbmm(bias, q, k.mT, alpha=scale).softmax(-1)
    out = (p @ v.flatten(0, 1).to(wide)).to(v.dtype)
    return out.view(rows, heads, width, size), [p.to(v.dtype)]


def _small_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by matrix products, from the probabilities [B * G, H / G * Q, K] of the forward."""
    (rows, heads, width, size), groups = q.shape, k.shape[1]
    q, grad = (x.reshape(rows * groups, -1, size) for x in (q, grad))
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    grad_p = grad @ v.mT
    grad_scores = torch.ops.aten._softmax_backward_data(grad_p, p, -1, q.dtype).mul_(scale)
    return (
        (grad_scores @ k).view(rows, heads, width, size),
        (grad_scores.mT @ q).view(rows, groups, -1, size),
        (p.mT @ grad).view(rows, groups, -1, size),
    )


def _large_forward(q: Tensor, k: Tensor, v: Tensor, block: Block, scale: float) -> tuple[Tensor, list[Tensor]]:
    """PyTorch's kernel, whose memory does not grow with the square of the length; outputs and their log-sums."""
    repeats = q.shape[1] // k.shape[1]
    mask = None if block.square else block.bias.to(q.dtype)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, _repeated(k, repeats), _repeated(v, repeats), 0.0, block.square, attn_mask=mask, scale=scale
    )
    return out, [out, lse]


def _large_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, block: Block, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's own."""
    groups, repeats = k.shape[1], q.shape[1] // k.shape[1]
    mask = None if block.square else block.bias.to(q.dtype)
    gq, gk, gv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, _repeated(k, repeats), _repeated(v, repeats), out, lse, 0.0, block.square, attn_mask=mask, scale=scale
    )
    return gq, gk.unflatten(1, (groups, repeats)).sum(2), gv.unflatten(1, (groups, repeats)).sum(2)


def _placed(parts: list[Tensor], layout: RaggedLayout, size: int) -> Tensor:
    """What was computed for query columns, token by token [size, ...]; 0 for tokens that are in no block."""
    out = torch.cat(parts)[layout.places]
    return F.pad(out, (0, 0) * (out.ndim - 1) + (0, size - len(out))) if size > len(out) else out


def _sum_by_token(parts: list[Tensor], layout: RaggedLayout, size: int) -> Tensor:
    """Gradients of keys that several rows looked at."""
    valid = torch.cat([b.valid.flatten() for b in layout.blocks])
    keys = torch.cat([b.keys.flatten() for b in layout.blocks])[valid]
    return _summed(size, keys, torch.cat(parts)[valid])


def _summed(size: int, index: Tensor, values: Tensor) -> Tensor:
    """Values [M, ...] added up by index [M], in float32 and in a fixed order on every device; [size, ...]."""
    total = values.new_zeros(size, *values.shape[1:], dtype=torch.promote_types(values.dtype, torch.float32))
    values = values.to(total.dtype)
    if values.device.type == "cpu":
        return total.index_add_(0, index, values).to(values.dtype)
    return total.index_put_((index,), values, accumulate=True)  # index_add_ is not deterministic on CUDA


class _Take(torch.autograd.Function):
    """x[index], with a backward that is deterministic on every device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(index)
        ctx.size = len(x)
        return x[index]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (index,) = ctx.saved_tensors
        return _summed(ctx.size, index.flatten(), grad.flatten(0, index.ndim - 1)).to(grad.dtype), None


def _attention(q: Tensor, k: Tensor, v: Tensor, layout: RaggedLayout, scale: float, dropout: float) -> Tensor:
    """The same on any device, by PyTorch's own choice of kernel."""
    outputs, repeats = [], q.shape[1] // k.shape[1]
    for block in layout.blocks:
        out = F.scaled_dot_product_attention(
            _Take.apply(q, block.queries).transpose(1, 2),
            _repeated(_Take.apply(k, block.keys).transpose(1, 2), repeats),
            _repeated(_Take.apply(v, block.keys).transpose(1, 2), repeats),
            attn_mask=None if block.square else block.visible,
            is_causal=block.square,
            scale=scale,
            dropout_p=dropout,
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    taken: Tensor = _Take.apply(torch.cat(outputs), layout.places)
    return F.pad(taken, (0, 0, 0, 0, 0, len(q) - len(taken)))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    ragged: RaggedLayout | None = None,
    **kwargs: Any,
) -> Any:
    """What transformers calls: query [B, H, T, D], key and value [B, G, T, D]; returns [B, T, H, D].

    With a layout B is 1, T is the number of tokens of all sequences, and `attention_mask` has no meaning. Tokens
    after those of the layout look at nothing and are looked at by none: their output is 0.
    """
    if ragged is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if unknown := [k for k in ("softcap", "s_aux", "position_bias") if kwargs.get(k) is not None]:
        raise NotImplementedError(f"ragged attention with {unknown}")  # the backbone then pads instead
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(q, k, v, ragged, scale, dropout).unsqueeze(0), None


def attend(q: Tensor, k: Tensor, v: Tensor, layout: RaggedLayout, scale: float, dropout: float = 0.0) -> Tensor:
    """Outputs [N, H, D] for queries [N, H, D], keys and values [N, G, D]; 0 for tokens after those of the layout."""
    if torch.is_autocast_enabled(q.device.type):  # as it does for PyTorch's attention: rotated queries are float32
        q, k, v = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (q, k, v))
    if q.device.type == "cpu" and not dropout:
        with torch.autocast("cpu", enabled=False):  # it would compute the float32 scores in 16 bit
            out: Tensor = _CpuAttention.apply(q, k, v, layout, scale)
        return out
    return _attention(q, k, v, layout, scale, dropout)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
