"""Which input makes a loss or a gradient that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

_MOST = 256
"""Inputs tried; one forward and backward each."""


def blame(
    rows: Iterable[tuple[str, Any]],
    loss: Callable[[Any], Tensor],
    parameters: list[nn.Parameter],
    context: Callable[[], AbstractContextManager[Any]],
) -> str:
    """A sentence that names the first input whose own loss or gradient is not finite.

    Args:
        rows: Text and single-row batch of every input of the step.
        loss: Loss of such a batch.
        parameters: What is trained.
        context: Autocast, as in training.
    """
    for text, row in islice(rows, _MOST):
        with context(), torch.enable_grad():
            value = loss(row)
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        finite = [bool(torch.isfinite(x).all()) for x in (value, *gradients) if x is not None]
        if not all(finite):
            shown = text if len(text) <= 200 else f"{text[:197]}..."
            return f"The input {shown!r} alone gives a {'gradient' if finite[0] else 'loss'} that is not finite."
    return "No single input of the step is to blame; the weights or the sum over inputs are."
