"""Keys and values in buffers with room for the tokens to come, instead of a copy of everything at each token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

STEP = 64
"""Buffers grow by at least this many columns."""


class RoomyLayer(DynamicLayer):
    """A layer's cache; `keys` and `values` are views of the columns of the buffers that are filled."""

    def __init__(self, most: int) -> None:
        """
        Args:
            most: Columns that will ever be needed.
        """
        super().__init__()
        self.most = most
        self.buffers: tuple[Tensor, Tensor] | None = None
        self.column: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.column is not None:  # fixed shapes: write where `column` says, show all columns
            assert self.buffers is not None
            for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
                buffer.index_copy_(2, self.column, new)
            return self.buffers
        before = self.get_seq_length()
        if before == 0:  # the prompts: kept as they are until the first token is added
            self.is_initialized = True
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        self.reserve(before + key_states.shape[2])
        self._show(before + key_states.shape[2])
        self.keys[:, :, before:], self.values[:, :, before:] = key_states, value_states
        return self.keys, self.values

    def reserve(self, columns: int) -> None:
        """Make room for so many columns."""
        assert self.keys is not None
        filled = self.keys.shape[2]
        if self.buffers is not None and columns <= self.buffers[0].shape[2]:
            return
        room = min(self.most, max(columns, filled + STEP, filled * 3 // 2))
        buffers = []
        for old in (self.keys, self.values):
            # Zeros, not whatever was there: attention multiplies columns it must not see by 0, and 0 * NaN is NaN.
            new = old.new_zeros(*old.shape[:2], room, old.shape[3])
            new[:, :, :filled] = old
            buffers.append(new)
        self.buffers = (buffers[0], buffers[1])
        self._show(filled)

    def batch_select_indices(self, indices: Tensor) -> None:
        filled = self.keys.shape[2]
        if self.buffers is None:
            super().batch_select_indices(indices)
            return
        for buffer in self.buffers:  # in place: fresh memory costs more than copying
            buffer[: len(indices), :, :filled] = buffer[indices, :, :filled]
        self.buffers = (self.buffers[0][: len(indices)], self.buffers[1][: len(indices)])
        self._show(filled)

    def _show(self, columns: int) -> None:
        assert self.buffers is not None
        self.keys, self.values = (b[:, :, :columns] for b in self.buffers)


def roomy_cache(config: Any, most: int) -> Cache | None:
    """A cache of at most so many columns; None for models whose layers keep something else than all keys and values."""
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        return None
    text = config.get_text_config(decoder=True)
    return Cache(layers=[RoomyLayer(most) for _ in range(text.num_hidden_layers)])


def fix_shapes(cache: Cache, columns: int, column: Tensor) -> int:
    """From now on, write at `column` [1] and show every column there is room for, filled or not; their number.

    The shapes and addresses stay the same from token to token then, which is what CUDA graphs need.

    Args:
        cache: From `roomy_cache`, with the prompts in it.
        columns: Room that is needed now.
        column: Where the next token goes; the caller counts it up.
    """
    for layer in cache.layers:
        layer.column = None
        layer.reserve(columns)
        layer.column = column
    return int(cache.layers[0].buffers[0].shape[2])


def release_shapes(cache: Cache, filled: int) -> None:
    """Back to views of the filled columns, so that rows can be selected and buffers can grow."""
    for layer in cache.layers:
        layer.column = None
        layer._show(filled)
