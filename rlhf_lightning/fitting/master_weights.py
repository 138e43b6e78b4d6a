"""Float32 weights for everything that is trained, under 16-bit precision too (App. C)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import lightning as L
import torch
from torch import nn


class MasterWeights(L.LightningModule):
    """Trained weights that are float32 stay so when the module is cast, as Lightning's "-true" precisions do.

    A step of Adam is about the learning rate in size, and 16-bit weights of 0.01 to 1 are further apart than 1e-5:
    the steps would be rounded away. The products are 16-bit all the same, as LoRA layers cast to what they read.
    """

    def to(self, *args: Any, **kwargs: Any) -> Self:
        with _keeping_float32(self):
            return super().to(*args, **kwargs)


@contextmanager
def _keeping_float32(module: nn.Module) -> Iterator[None]:
    masters = {n: p.data for n, p in module.named_parameters() if p.requires_grad and p.dtype == torch.float32}
    yield
    for name, parameter in module.named_parameters():
        if name in masters and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = masters[name].to(parameter.device)
