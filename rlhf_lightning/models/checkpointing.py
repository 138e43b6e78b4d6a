"""Gradient checkpointing that knows which adapter a layer ran with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf_lightning.models.lora_linear import active, state


def checkpointed_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformers model whose insides are not kept; some older architectures have none."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Run forwards that keep only the input of each transformer layer, and compute the rest again in the backward.

    transformers' own way recomputes with whatever adapter is active when `backward` is called, which silently gives
    wrong gradients once several adapters share a base; and it does nothing in evaluation mode, in which PPO trains.
    """
    layers = checkpointed_layers(model) if torch.is_grad_enabled() else []
    for layer in layers:
        adapted = [m for m in layer.modules() if isinstance(m, LoraLayer)]
        object.__setattr__(layer, "forward", partial(_run, layer.forward, adapted))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "forward")


def _run(forward: Callable[..., Any], adapted: list[LoraLayer], *args: Any, **kwargs: Any) -> Any:
    then = state(adapted[0]) if adapted else ([], None)

    def with_adapter(*args: Any, **kwargs: Any) -> Any:
        with active(adapted, *then):
            return forward(*args, **kwargs)

    return checkpoint(with_adapter, *args, use_reentrant=False, **kwargs)
