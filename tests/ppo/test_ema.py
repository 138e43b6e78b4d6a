"""The average of the policy's weights: its numbers, and that the weights themselves always come back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.ema import EMASettings, PolicyEMA, weights_for


def average(*values: float, decay: float = 0.9, dtype: torch.dtype = torch.float32) -> tuple[PolicyEMA, nn.Parameter]:
    weight = nn.Parameter(torch.tensor(values, dtype=dtype))
    ema = PolicyEMA(EMASettings(decay), lambda: {"weight": weight})
    ema.start()
    return ema, weight


def now(ema: PolicyEMA) -> torch.Tensor:
    found: torch.Tensor = ema.state_dict()["average"]["weight"]
    return found


def test_the_average_by_hand() -> None:
    """From 1 and 2: to 0.9 · 1 + 0.1 · 2 = 1.1, then 0.9 · 1.1 + 0.1 · 4 = 1.39."""
    ema, weight = average(1.0, 2.0)
    assert now(ema).tolist() == [1.0, 2.0]
    for target, expected in (([2.0, 2.0], [1.1, 2.0]), ([4.0, 1.0], [1.39, 1.9])):
        weight.data.copy_(torch.tensor(target))
        ema.update()
        assert now(ema).tolist() == pytest.approx(expected)


def test_many_updates_agree_with_float64() -> None:
    ema, weight = average(*torch.zeros(50).tolist(), decay=0.992)
    exact, generator = torch.zeros(50, dtype=torch.float64), torch.Generator().manual_seed(0)
    for _ in range(1000):
        weight.data.add_(0.01 * torch.randn(50, generator=generator))
        ema.update()
        exact = 0.992 * exact + 0.008 * weight.detach().double()
    assert torch.allclose(now(ema).double(), exact, rtol=0, atol=1e-5)


def test_the_average_is_float32() -> None:
    """In bfloat16, 0.008 of a change of 0.01 would be rounded away."""
    ema, weight = average(1.0, decay=0.992, dtype=torch.bfloat16)
    weight.data.add_(0.0078125)
    for _ in range(100):
        ema.update()
    assert now(ema).dtype == torch.float32
    assert now(ema).item() == pytest.approx(1 + 0.0078125 * (1 - 0.992**100), abs=1e-6)


def test_weights_come_back_bit_for_bit() -> None:
    ema, weight = average(1.0, 2.0)
    weight.data = torch.tensor([0.1, 0.2])
    before = weight.data
    with ema.swapped():
        assert weight.tolist() == [1.0, 2.0]
    assert weight.data is before or weight.data.data_ptr() == before.data_ptr()
    with pytest.raises(RuntimeError), ema.swapped():
        raise RuntimeError
    assert torch.equal(weight.data, torch.tensor([0.1, 0.2]))
    assert weight.requires_grad


def test_an_average_goes_on() -> None:
    ema, weight = average(1.0, 2.0)
    weight.data.fill_(3.0)
    ema.update()
    other = PolicyEMA(ema.settings, lambda: {"weight": weight})
    other.load_state_dict(ema.state_dict())
    other.start()
    assert torch.equal(now(other), now(ema))
    other.update()
    assert not torch.equal(now(other), now(ema))


def test_an_average_of_other_weights_is_refused() -> None:
    ema, weight = average(1.0)
    other = PolicyEMA(ema.settings, lambda: {"other": weight})
    other.load_state_dict(ema.state_dict())
    with pytest.raises(UserError, match="2 tensors are on one side only, such as 'other'"):
        other.start()


def test_nothing_is_swapped_before_there_is_an_average() -> None:
    weight = nn.Parameter(torch.ones(1))
    with PolicyEMA(EMASettings(), lambda: {"weight": weight}).swapped():
        assert weight.item() == 1


def test_each_use_has_its_weights() -> None:
    weight = nn.Parameter(torch.ones(1))
    for evaluate, export in (("raw", "ema"), ("ema", "raw")):
        ema = PolicyEMA(EMASettings(0.5, evaluate, export), lambda: {"weight": weight})  # type: ignore[arg-type]
        weight.data.fill_(1.0)
        ema.start()
        weight.data.fill_(2.0)
        with weights_for(ema, "evaluate_with"):
            assert weight.item() == (2 if evaluate == "raw" else 1)
        with weights_for(ema, "export"):
            assert weight.item() == (2 if export == "raw" else 1)
    with weights_for(None, "export"):
        assert weight.item() == 2
