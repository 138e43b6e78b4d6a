"""The optimizer's settings reach it: three steps of AdamW as its paper writes them."""

from __future__ import annotations

import pytest
import torch

from rlhf_lightning.schedule import OptimizerSettings


def adamw(x: float, slopes: list[float], s: OptimizerSettings, lr: float) -> float:
    """Loshchilov and Hutter, Algorithm 2."""
    m = v = 0.0
    for t, g in enumerate(slopes, 1):
        m, v = s.beta1 * m + (1 - s.beta1) * g, s.beta2 * v + (1 - s.beta2) * g * g
        step = (m / (1 - s.beta1**t)) / ((v / (1 - s.beta2**t)) ** 0.5 + s.eps)
        x -= lr * (step + s.weight_decay * x)
    return x


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "settings", [OptimizerSettings(), OptimizerSettings(lr=0.1, beta1=0.5, beta2=0.8, eps=0.3, weight_decay=0.2)]
)
def test_an_update_is_adams(fused: bool, settings: OptimizerSettings) -> None:
    """And each group has its own learning rate."""
    slopes = [1.0, -0.3, 0.7]
    x, y = (torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64)) for _ in range(2))
    optimizer = settings.adamw([{"params": [x], "lr": settings.lr}, {"params": [y], "lr": 0.03}], fused)
    for slope in slopes:
        x.grad = y.grad = torch.tensor(slope, dtype=torch.float64)
        optimizer.step()
    assert x.item() == pytest.approx(adamw(2.0, slopes, settings, settings.lr), abs=1e-12)
    assert y.item() == pytest.approx(adamw(2.0, slopes, settings, 0.03), abs=1e-12)
