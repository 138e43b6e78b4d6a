"""Statistics over valid tokens only. Masks select, they never multiply: NaN in a padded slot changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of `x` where `mask` is True; a scalar.

    >>> masked_sum(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False]))
    tensor(4.)
    """
    return torch.where(mask, x, x.new_zeros(())).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask` is True; a scalar, 0 for an empty mask.

    >>> masked_mean(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False]))
    tensor(2.)
    """
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def masked_moments(x: Tensor, mask: Tensor, reduce: Callable[[Tensor], Tensor] = torch.clone) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (divided by n) of `x` over the mask, in float64 so that order hardly matters.

    Args:
        x: Values, any shape.
        mask: Bool, same shape.
        reduce: Sums a tensor over all processes; by default there is one.

    >>> masked_moments(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([True, True, False]))  # 2; (1 + 1) / 2
    (tensor(2., dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    values = x.double()
    count = reduce(mask.sum().double()).clamp(min=1)
    mean = reduce(masked_sum(values, mask)) / count
    # Masked before the square: 0 times NaN is NaN, so a mask after it would let padding into the gradient.
    squares = torch.where(mask, values - mean, 0.0) ** 2
    return mean, reduce(squares.sum()) / count


def whiten(
    x: Tensor, mask: Tensor, shift_mean: bool = True, reduce: Callable[[Tensor], Tensor] = torch.clone
) -> Tensor:
    """Scale `x` to unit variance over the mask and (by default) zero mean; exactly 0 where masked.

    Biased variance and the 1e-8 inside the root follow openai/lm-human-preferences.

    Args:
        x: Values, any shape.
        mask: Bool, same shape; True = keep.
        shift_mean: Subtract the mean too; False keeps it (as for rewards).
        reduce: Sums a tensor over all processes; by default there is one.

    >>> whiten(torch.tensor([[1.0, 5.0, 99.0]]), torch.tensor([[True, True, False]]))  # mean 3, deviation 2
    tensor([[-1.,  1.,  0.]])
    >>> whiten(torch.tensor([[1.0, 5.0, 99.0]]), torch.tensor([[True, True, False]]), shift_mean=False)
    tensor([[2., 4., 0.]])
    """
    values = x.double()
    mean, var = masked_moments(values, mask, reduce)
    out = torch.where(mask, values - mean, 0.0) * torch.rsqrt(var + 1e-8)
    if not shift_mean:
        out = torch.where(mask, out + mean, 0.0)
    return out.to(x.dtype)


def last_valid_index(mask: Tensor) -> Tensor:
    """Column of the last True in each row of a [B, T] mask, whatever side the padding is on; [B].

    >>> last_valid_index(torch.tensor([[True, True, False], [False, True, True]]))
    tensor([1, 2])
    """
    width = mask.shape[-1]
    return width - 1 - mask.flip(-1).int().argmax(-1)


def position_ids(mask: Tensor) -> Tensor:
    """Positions that count valid tokens only, so padding never shifts them; 0 on leading padding; [B, T] long.

    >>> position_ids(torch.tensor([[False, True, True]]))
    tensor([[0, 0, 1]])
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
