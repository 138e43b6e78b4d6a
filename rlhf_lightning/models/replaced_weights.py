"""Other weights in a model's layers for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def replaced_weights(weights: Sequence[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    """Run a block in which layers have other weights, which are not trained.

    Parameters are exchanged as whole objects. Another `.data` of another dtype would make torch forget a trained
    parameter's gradient accumulator, and with it the hooks by which DistributedDataParallel averages gradients.

    Args:
        weights: Layers and what their `weight` is to be; of any dtype.
    """
    own = [(layer, layer._parameters["weight"]) for layer, _ in weights]
    try:
        for layer, weight in weights:
            layer._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
        yield
    finally:
        for layer, parameter in own:
            layer._parameters["weight"] = parameter
