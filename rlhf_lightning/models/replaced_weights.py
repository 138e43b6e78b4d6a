"""Other weights in a model's layers for a while.

Not by another `.data`: one of another dtype would make torch forget a trained parameter's gradient accumulator, and
with it the hooks by which DistributedDataParallel averages gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def replaced_weights(weights: Sequence[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    """Run a block in which frozen layers have other parameters; `state_dict` has these.

    Args:
        weights: Layers, and what their `weight` is to be.
    """
    own = [(layer, layer._parameters["weight"]) for layer, _ in weights]
    try:
        for layer, weight in weights:
            layer._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
        yield
    finally:
        for layer, parameter in own:
            layer._parameters["weight"] = parameter


@contextmanager
def lent_weights(weights: Sequence[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    """Run a block in which layers compute with other weights; parameters and `state_dict` stay as they are.

    So a checkpoint that is written meanwhile, because the run was told to stop, has the trained ones.

    Args:
        weights: Layers, and what they compute with; of any dtype.
    """
    try:
        for layer, weight in weights:
            layer.__dict__["weight"] = weight  # found before the parameter of that name
        yield
    finally:
        for layer, _ in weights:
            layer.__dict__.pop("weight", None)
