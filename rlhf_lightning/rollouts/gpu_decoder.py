"""The lean decoder on a GPU: few large kernels a layer, with shapes and addresses that a CUDA graph can replay.

Between two products stands what no library kernel does together with them, a dozen kernels a layer in place of some
fifty: launching and starting them is most of a step's time. Activations are [rows, features]; the residual is added by
the product itself; keys and values are written together at a column that the device counts; queries that share a key
are rows of one attention call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_lightning.rollouts.lean_decoder import LeanDecoder

STEP = 64
"""Columns that attention looks at grow by so many; a step is recorded anew each time."""


class GpuDecoder(LeanDecoder):
    """Computes the hidden states of one new token in each of B rows, all waits and changing shapes left out."""

    fixed_shapes = True

    def columns(self, columns: int) -> int:
        return -(-columns // STEP) * STEP  # whole steps: attention's kernel wants masks of a multiple of 8 columns

    def _step(self, token: Tensor, mask: Tensor, position: Tensor, column: Tensor) -> Tensor:
        x = self.embed(token)
        bias = torch.zeros(mask.shape, dtype=self.dtype, device=x.device).masked_fill_(~mask, float("-inf"))
        bias = bias[:, None, None].expand(-1, self.groups, self.heads // self.groups, -1)
        angles = self._angles(x, position)
        for layer, buffer in zip(self.layers, self.buffers, strict=True):
            normal = self._normal(x, layer.attention_norm).to(self.dtype)
            qkv = F.linear(normal, layer.qkv, None if layer.qkv_bias is None else layer.qkv_bias.squeeze(1))
            x = self._added(x, self._attended(qkv, buffer, bias, angles, column), layer.out)
            gate, up = F.linear(self._normal(x, layer.mlp_norm).to(self.dtype), layer.gate_up).chunk(2, dim=1)
            x = self._added(x, F.silu(gate).mul_(up), layer.down)
        return self._normal(x, self.norm)

    def _added(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """x + y Wᵀ."""
        return torch.addmm(x, y, weight.t()) if x.dtype == y.dtype else x + F.linear(y, weight)

    def _normal(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[1],), weight.squeeze(1).to(x.dtype), self.eps)

    def _angles(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [B, heads + 2 groups, size]; 1 and 0 for values, which are not turned."""
        cos, sin = (part[:, :1].to(self.dtype) for part in self.rotary(x, position))
        half, turned = self.size // 2, self.heads + self.groups
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        shape = (-1, turned, -1)
        ones = cos.new_ones(len(cos), self.groups, self.size)
        nothing = torch.zeros_like(ones)
        return torch.cat([cos.expand(*shape), ones], 1), torch.cat([sin.expand(*shape), nothing], 1)

    def _attended(
        self, qkv: Tensor, buffer: Tensor, bias: Tensor, angles: tuple[Tensor, Tensor], column: Tensor
    ) -> Tensor:
        """[B, heads * size]; writes the new keys and values into the buffer at `column`."""
        heads, groups, half = self.heads, self.groups, self.size // 2
        parts = qkv.view(len(qkv), heads + 2 * groups, self.size)
        cos, sin = angles
        rotated = parts * cos
        rotated[..., :half].addcmul_(parts[..., half:], sin[..., :half])
        rotated[..., half:].addcmul_(parts[..., :half], sin[..., half:])
        buffer.index_copy_(2, column, rotated[:, heads:].unsqueeze(2))
        queries = rotated[:, :heads].unflatten(1, (groups, heads // groups))
        seen = buffer[:, :, : bias.shape[-1]]
        out = F.scaled_dot_product_attention(queries, seen[:, :groups], seen[:, groups:], attn_mask=bias)
        return out.reshape(len(qkv), heads * self.size)
