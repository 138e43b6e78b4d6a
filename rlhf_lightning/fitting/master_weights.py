"""Float32 for everything that is trained, and for what is small and exact, under 16-bit precision too (App. C)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from rlhf_lightning.models.scalar_head import ScalarHead

HALF = (torch.float16, torch.bfloat16)


class MasterWeights(L.LightningModule):
    """What is float32 and has to be stays so when the module is cast, as Lightning's "-true" precisions do.

    - Trained weights: a step of Adam is about the learning rate in size, and 16-bit weights of 0.01 to 1 are further
      apart than 1e-5: the steps would be rounded away. The products are 16-bit all the same, as LoRA layers cast to
      what they read.
    - Scalar heads, frozen ones too: scores are read to more than three digits.
    - Rotary frequencies, as wherever else the model is loaded: 16 bit of them turn position 1000 by another angle.
    - Sums of metrics: to 300,000 a bf16 sum cannot add 1,000.
    """

    def to(self, *args: Any, **kwargs: Any) -> Self:
        with _keeping_float32(self):
            return super().to(*args, **kwargs)


@contextmanager
def _keeping_float32(module: nn.Module) -> Iterator[None]:
    kept = list(_float32(module))
    metrics = [(metric, metric.dtype) for metric in module.modules() if isinstance(metric, Metric)]
    yield
    for tensors, name, before in kept:
        now = tensors[name]
        if now.dtype in HALF:
            now.data = before.to(now.device)
    for metric, dtype in metrics:
        if metric.dtype in HALF and dtype == torch.float32:
            metric.set_dtype(dtype)


def _float32(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Where a tensor that stays float32 is, and its data."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is None or not (parameter.requires_grad or isinstance(part, ScalarHead)):
                continue
            if parameter.dtype == torch.float32:
                yield part._parameters, name, parameter.data
        for name, buffer in part._buffers.items():
            if buffer is not None and name.endswith("inv_freq") and buffer.dtype == torch.float32:
                yield part._buffers, name, buffer.data
