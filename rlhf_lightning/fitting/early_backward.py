"""Gradients of a loss computed part by part, while Lightning still calls one backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn


class _Computed(torch.autograd.Function):
    """A scalar whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:  # type: ignore[override]
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(g if g is None else g.mul_(grad.to(g.dtype)) for g in gradients)


class EarlyBackward:
    """Sums parts of a loss, each of which goes backward and is forgotten before the next one is computed.

    Only one part's activations are alive at a time, whatever the batch and however many roles a loss has. The sum is
    handed to the trainer as one scalar, so that precision, accumulation, clipping and hooks stay as they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device_type: str, scale: float = 1.0) -> None:
        """
        Args:
            parameters: What is trained.
            device_type: "cpu" or "cuda".
            scale: Loss scale of 16-bit gradients, taken out again before they are added up.
        """
        self._parameters = list(parameters)
        self.gradients: list[Tensor | None] = [None] * len(self._parameters)
        """The sums so far, by parameter; None where no part has one."""
        self._device_type, self._scale = device_type, scale
        self.total: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        """Count a part in: a scalar with a graph, which is freed."""
        # Autocast is for forwards: it would cast the products of a float32 backward to 16 bit.
        with torch.autocast(self._device_type, enabled=False):
            new = torch.autograd.grad(loss * self._scale, self._parameters, allow_unused=True)
        if self._scale != 1.0:
            new = tuple(None if g is None else g / self._scale for g in new)
        loss = loss.detach()
        self._sum(_own_memory(new), loss)

    def include(self, other: EarlyBackward) -> None:
        """Count in all parts of another sum over the same parameters, which keeps what it has."""
        if other.total is not None:
            self._sum((g if g is None else g.clone() for g in other.gradients), other.total)

    def _sum(self, gradients: Iterable[Tensor | None], loss: Tensor) -> None:
        for i, gradient in enumerate(gradients):
            held = self.gradients[i]
            if held is None or gradient is None:
                self.gradients[i] = held if gradient is None else gradient
            else:
                held.add_(gradient)
        self.total = loss if self.total is None else self.total + loss

    def loss(self) -> Tensor:
        """The sum, as a scalar to call `backward` on once."""
        assert self.total is not None, "no part was added"
        loss: Tensor = _Computed.apply(self.total, self.gradients, *self._parameters)
        return loss


def _own_memory(gradients: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
    """The gradients, safe to be changed in place: autograd hands out one tensor twice, or expanded, where it can."""
    seen = set()
    for gradient in gradients:
        if gradient is not None:
            storage = gradient.untyped_storage()
            if storage.data_ptr() in seen or storage.nbytes() != gradient.nbytes:
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            seen.add(gradient.untyped_storage().data_ptr())
        yield gradient


def loss_scale(trainer: L.Trainer) -> float | None:
    """What 16-bit gradients are scaled by; None where they are not."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())
