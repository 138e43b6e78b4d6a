"""Decoding steps of Llama-like models on a CPU, without the small operations that take most of their time there.

A step of a few rows multiplies little: through transformers' modules, half of it is the overhead of some fifty
operations a layer. Here a layer is half as many. Activations are [features, rows], the order that `weight @ x` gives
and takes; query, key and value are one product, and so are gate and up; queries that share a key are rows of one
attention call, so that keys are not repeated; keys and values are one buffer, written in place.

The weights are copies with the adapter merged in, as many as merging needs anyway.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from rlhf_lightning.models.replaced_weights import lent_weights

MODELS = ("llama", "mistral", "qwen2")
"""Values of `model_type` whose layers are those below; a step is compared with the model's own all the same."""


@dataclass(frozen=True)
class _Layer:
    """Weights [out, in] of a layer, biases [out, 1] or None, norms [H, 1]."""

    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor
    attention_norm: Tensor
    mlp_norm: Tensor


class LeanDecoder:
    """Computes the hidden states of one new token in each of B rows; keeps keys and values of those before."""

    fixed_shapes: ClassVar[bool] = False
    """Whether a step looks at columns that are not filled yet, so that shapes stay from step to step."""

    @torch.no_grad()
    def __init__(self, lm: Any, adapter: str | None) -> None:
        """
        Args:
            lm: A model that `fits`.
            adapter: LoRA adapter to merge into the copies of its weights, if any.
        """
        config, embed = lm.config, lm.get_input_embeddings()
        self.device: torch.device = embed.weight.device
        kind, autocast = self.device.type, torch.is_autocast_enabled(self.device.type)
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.embed, self.rotary = embed, lm.base_model.rotary_emb
        self.norm = lm.base_model.norm.weight.detach().unsqueeze(1)
        self.dtype: torch.dtype = torch.get_autocast_dtype(kind) if autocast else embed.weight.dtype
        self._places: list[tuple[nn.Linear, Tensor]] = []
        """The model's own linear layers and their merged weights, parts of the copies."""
        self.layers = [self._copied(layer, adapter) for layer in lm.base_model.layers]
        self.buffers: list[Tensor] = []

    def in_model(self) -> AbstractContextManager[None]:
        """Run a block in which the model itself has the merged weights; its adapters must be off."""
        return lent_weights(self._places)

    def _copied(self, layer: Any, adapter: str | None) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp

        def stacked(*projections: Any) -> Tensor:
            weights = [_base(p).weight for p in projections]
            out = torch.empty(sum(len(w) for w in weights), weights[0].shape[1], dtype=self.dtype, device=self.device)
            for projection, part in zip(projections, out.split([len(w) for w in weights]), strict=True):
                _merge_into(part, projection, adapter)
                self._places.append((_base(projection), part))
            return out

        biases = [_base(p).bias for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        return _Layer(
            qkv=stacked(attention.q_proj, attention.k_proj, attention.v_proj),
            qkv_bias=None if biases[0] is None else torch.cat(biases).detach().to(self.dtype).unsqueeze(1),
            out=stacked(attention.o_proj),
            gate_up=stacked(mlp.gate_proj, mlp.up_proj),
            down=stacked(mlp.down_proj),
            attention_norm=layer.input_layernorm.weight.detach().unsqueeze(1),
            mlp_norm=layer.post_attention_layernorm.weight.detach().unsqueeze(1),
        )

    def read(self, cache: Cache, rows: Tensor, columns: int) -> None:
        """Take over the keys and values of prompts.

        Args:
            cache: Of U distinct prompts.
            rows: [B], the prompt of each row.
            columns: How many there will be in the end.
        """
        self.buffers = []
        for layer in cache.layers:
            keys, values = layer.keys, layer.values
            assert keys is not None
            assert values is not None
            # Zeros, not whatever was there: attention multiplies columns it must not see by 0, and 0 * NaN is NaN.
            shape = (len(rows), 2 * self.groups, self.columns(columns), self.size)
            buffer = torch.zeros(shape, dtype=self.dtype, device=self.device)
            buffer[:, : self.groups, : keys.shape[2]] = keys[rows]
            buffer[:, self.groups :, : keys.shape[2]] = values[rows]
            self.buffers.append(buffer)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        for i, buffer in enumerate(self.buffers):
            buffer[: len(rows)] = buffer[rows]  # in place: fresh memory costs more than copying
            self.buffers[i] = buffer[: len(rows)]

    def step(self, token: Tensor, mask: Tensor, position: Tensor, column: Tensor) -> Tensor:
        """Final hidden states [B, H] of the next token.

        Args:
            token: [B].
            mask: Bool [B, T], the columns so far, the token's own included.
            position: [B, 1].
            column: [1], the token's own; here the last one.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._step(token, mask, position, column)

    def columns(self, columns: int) -> int:
        """How many columns the buffers have for so many tokens."""
        return columns

    def _step(self, token: Tensor, mask: Tensor, position: Tensor, column: Tensor) -> Tensor:
        x = self.embed(token).t().contiguous()
        cos, sin = (part[:, 0].t().to(self.dtype) for part in self.rotary(x, position))
        half = self.size // 2
        angles = cos, -sin[:half], sin[half:]
        bias = torch.zeros(mask.shape, dtype=self.dtype).masked_fill_(~mask, float("-inf"))[:, None, None]
        for layer, buffer in zip(self.layers, self.buffers, strict=True):
            qkv = layer.qkv @ self._normal(x, layer.attention_norm).to(self.dtype)
            if layer.qkv_bias is not None:
                qkv += layer.qkv_bias
            x = x + layer.out @ self._attention(qkv, buffer[:, :, : mask.shape[1]], bias, angles).t()
            gate, up = (layer.gate_up @ self._normal(x, layer.mlp_norm).to(self.dtype)).chunk(2)
            x += layer.down @ F.silu(gate).mul_(up)
        return self._normal(x, self.norm).t()

    def _normal(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        square = torch.linalg.vecdot(wide, wide, dim=0)
        normal: Tensor = (wide * square.div_(len(x)).add_(self.eps).rsqrt_()).to(x.dtype)
        return normal.mul_(weight)

    def _attention(self, qkv: Tensor, buffer: Tensor, bias: Tensor, angles: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """[B, heads * size]; writes the new keys and values into the buffer's last column."""
        heads, groups, size = self.heads, self.groups, self.size
        parts = qkv.view(heads + 2 * groups, size, -1)
        turned, half = parts[: heads + groups], size // 2
        rotated = turned * angles[0]
        rotated[:, :half].addcmul_(turned[:, half:], angles[1])
        rotated[:, half:].addcmul_(turned[:, :half], angles[2])
        buffer[:, :groups, -1] = rotated[heads:].permute(2, 0, 1)
        buffer[:, groups:, -1] = parts[heads + groups :].permute(2, 0, 1)
        # Contiguous, for PyTorch's fast kernel.
        queries = rotated[:heads].permute(2, 0, 1).contiguous().view(-1, groups, heads // groups, size)
        out = F.scaled_dot_product_attention(queries, buffer[:, :groups], buffer[:, groups:], attn_mask=bias)
        return out.reshape(-1, heads * size)


def _base(projection: Any) -> Any:
    return projection.get_base_layer() if isinstance(projection, LoraLayer) else projection


def _merge_into(out: Tensor, projection: Any, adapter: str | None) -> None:
    weight: Tensor = _base(projection).weight
    if isinstance(projection, LoraLayer) and adapter in projection.lora_A:
        up, down = projection.lora_B[adapter].weight * projection.scaling[adapter], projection.lora_A[adapter].weight
        torch.addmm(weight.to(out.dtype), up.to(out.dtype), down.to(out.dtype), out=out)
    else:
        out.copy_(weight)


def fits(lm: Any) -> bool:
    """Whether a model is of the kind that this file computes; `agrees` then tells whether it does."""
    embed, layers = lm.get_input_embeddings(), getattr(lm.base_model, "layers", None)
    if lm.config.model_type not in MODELS or type(embed) is not nn.Embedding:
        return False
    if embed.weight.device.type not in ("cpu", "cuda"):
        return False
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=lm.config).layers):
        return False  # a sliding window
    parts = [m for layer in layers for m in (layer.self_attn, layer.mlp)]  # type: ignore[union-attr]
    projections = {n: m for part in parts for n, m in part.named_children() if n.endswith("_proj")}
    if any(type(_base(p)) is not nn.Linear or getattr(p, "lora_variant", None) for p in projections.values()):
        return False
    biased = {n for n, p in projections.items() if _base(p).bias is not None}
    return biased in (set(), {"q_proj", "k_proj", "v_proj"}) and lm.config.hidden_act == "silu"


@torch.no_grad()
def agrees(lm: Any, decoder: LeanDecoder) -> bool:
    """Whether a step is what the model itself computes with its active adapter, but for rounding."""
    device = decoder.device
    ids = torch.tensor([[0, 1, 2], [2, 0, 1]], device=device)
    expected = lm.base_model(input_ids=ids).last_hidden_state[:, -1].float()
    cache = DynamicCache(config=lm.config)
    lm.base_model(input_ids=ids[:, :2], past_key_values=cache, use_cache=True)
    decoder.read(cache, torch.arange(2, device=device), 3)
    mask = torch.ones(2, 3, dtype=torch.bool, device=device)
    position, column = torch.full((2, 1), 2, device=device), torch.full((1,), 2, device=device)
    found = decoder.step(ids[:, 2], mask, position, column).float()
    decoder.buffers = []
    return bool((found - expected).norm() < 0.05 * expected.norm())
