"""Compares a function over masked [B, R] tensors with a reference over ragged rows: values and gradients.

Every comparison is made in several layouts of the same numbers. What stands in masked slots, columns of padding
and the order of rows must change neither a value nor a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from tests.references.ppo_formulas import Rows, flat, total

fast = settings(max_examples=50, deadline=None, derandomize=True)

FLOAT64 = 1e-10
"""Relative to the largest value or gradient: some 10^5 roundings."""
FLOAT32 = 64 * torch.finfo(torch.float32).eps
"""The same for float32: a sum of up to 20 terms, each of a few roundings, and exp doubles the error of its input."""

Package = Callable[..., Tensor]
Reference = Callable[..., "Tensor | Rows"]


@dataclass(frozen=True)
class Batch:
    """Random numbers for rows of different lengths, all representable in float32."""

    lengths: list[int]
    seed: int
    scale: float
    """Standard deviation; 0 makes all numbers equal."""

    def numbers(self, count: int) -> list[list[list[float]]]:
        """`count` independent sets of rows."""
        generator = torch.Generator().manual_seed(self.seed)
        return [
            [(torch.randn(n, generator=generator) * self.scale).tolist() for n in self.lengths] for _ in range(count)
        ]

    @property
    def num_tokens(self) -> float:
        """Tokens of an optimizer step of which this batch is a part."""
        return 2.0 * sum(self.lengths) + 1


def batches() -> st.SearchStrategy[Batch]:
    """Up to four rows of up to five tokens."""
    lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)
    return st.builds(Batch, lengths, st.integers(0, 10**6), st.sampled_from([1.0, 0.3, 2.0, 0.0]))


@dataclass(frozen=True)
class Layout:
    """One way to put ragged rows into a tensor."""

    name: str
    fill: float
    """What stands in masked slots."""
    columns: int
    """Columns that are padding in all rows."""
    order: list[int]
    """Which row comes where."""
    dtype: torch.dtype = torch.float64

    def tensor(self, rows: list[list[float]]) -> Tensor:
        width = max(map(len, rows)) + self.columns
        return torch.tensor([rows[b] + [self.fill] * (width - len(rows[b])) for b in self.order], dtype=self.dtype)

    def mask(self, rows: list[list[float]]) -> Tensor:
        width = max(map(len, rows)) + self.columns
        return torch.tensor([[t < len(rows[b]) for t in range(width)] for b in self.order])


def layouts(batch: Batch, poison: bool) -> Iterator[Layout]:
    same = list(range(len(batch.lengths)))
    shuffled = torch.randperm(len(same), generator=torch.Generator().manual_seed(batch.seed)).tolist()
    fills = (0.0, math.nan, math.inf, -math.inf) if poison else (0.0,)
    for fill in fills:
        yield Layout(f"{fill} in masked slots", fill, 1, same)
    yield Layout("no padding beyond the longest row", fills[-1], 0, same)
    yield Layout("three columns of padding", fills[-1], 3, same)
    yield Layout("other order of rows", fills[-1], 1, shuffled)
    yield Layout("float32", fills[-1], 1, same, torch.float32)


def assert_agree(
    batch: Batch,
    num_inputs: int,
    package: Package,
    reference: Reference,
    gradients: bool = True,
    poison: bool = True,
) -> None:
    """Compare values, and the gradients of a random linear function of them, in all layouts.

    Args:
        batch: Where the numbers come from.
        num_inputs: Tensors that both functions take.
        package: (mask, *tensors [B, R]) to a scalar or [B, R] that is 0 where masked.
        reference: (*rows) to a scalar or rows.
        gradients: Compare gradients too.
        poison: Put NaN and infinity into masked slots.
    """
    *inputs, weights = batch.numbers(num_inputs + 1)
    leaves = [[[torch.tensor(x, dtype=torch.float64) for x in row] for row in rows] for rows in inputs]
    for number in (n for rows in leaves for n in flat(rows)):
        number.requires_grad_(gradients)
    expected = reference(*leaves)
    slopes: list[list[list[float]]] = []
    if gradients:
        total(_weighted(expected, weights)).backward()
        slopes = [[[0.0 if n.grad is None else n.grad.item() for n in row] for row in rows] for rows in leaves]
    values = [[n.item() for n in row] for row in expected] if isinstance(expected, list) else expected.item()
    magnitude = max(1.0, _largest(values), _largest(slopes))
    for layout in layouts(batch, poison):
        tolerance = magnitude * (FLOAT32 if layout.dtype == torch.float32 else FLOAT64)
        tensors = [layout.tensor(rows).requires_grad_(gradients) for rows in inputs]
        mask = layout.mask(inputs[0])
        out = package(mask, *tensors)
        _close(out, values, mask, layout, tolerance, "value")
        if gradients:
            weight = torch.where(mask, layout.tensor(weights), 0.0) if out.ndim else torch.ones(())
            (out * weight).sum().backward()
            for place, (tensor, slope) in enumerate(zip(tensors, slopes, strict=True)):
                found = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                _close(found, slope, mask, layout, tolerance, f"gradient of input {place}")


def _weighted(expected: Tensor | Rows, weights: list[list[float]]) -> list[Tensor]:
    if isinstance(expected, Tensor):
        return [expected]
    return [w * x for row, ws in zip(expected, weights, strict=True) for w, x in zip(ws, row, strict=True)]


def _largest(x: object) -> float:
    return max((_largest(part) for part in x), default=0.0) if isinstance(x, list) else abs(float(x))  # type: ignore[arg-type]


def _close(
    found: Tensor, rows: float | list[list[float]], mask: Tensor, layout: Layout, tolerance: float, what: str
) -> None:
    if isinstance(rows, float):
        expected = torch.tensor(rows, dtype=torch.float64)
    else:
        expected = torch.where(mask, layout.tensor(rows).double(), 0.0)
        assert bool((found[~mask] == 0).all()), f"{layout.name}: {what} is not 0 where masked: {found}"
    error = (found.detach().double() - expected).abs().max().item()
    assert error <= tolerance, f"{layout.name}: {what} is {found}, expected {expected}"
