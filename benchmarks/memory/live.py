"""Which tensors are alive."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch


def live_tensors() -> Iterator[torch.Tensor]:
    """Every tensor that Python knows of, gradients included; what autograd alone holds cannot be seen."""
    gc.collect()
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):  # `isinstance` would ask lazy modules for their class
            yield thing
            if thing.is_leaf and thing.grad is not None:
                yield thing.grad


def live_bytes() -> int:
    """Bytes of all live tensors; a storage counts once, however many tensors look at it."""
    sizes = {}
    for tensor in live_tensors():
        if tensor.layout == torch.strided and tensor.device.type != "meta":
            storage = tensor.untyped_storage()
            sizes[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
