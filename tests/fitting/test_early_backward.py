"""Gradients gathered part by part are those of one backward of the sum, and nothing of a part stays behind."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.fitting.early_backward import EarlyBackward, loss_scale


def model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def parts(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 5, generator=generator, dtype=torch.float64).to(dtype) for n in (4, 1, 6)]


def share(net: nn.Module, rows: Tensor) -> Tensor:
    total: Tensor = net(rows).square().sum() / 11
    return total


def gathered(net: nn.Module, scale: float = 1.0) -> EarlyBackward:
    gradients = EarlyBackward(list(net.parameters()), "cpu", scale)
    for rows in parts(next(net.parameters()).dtype):
        gradients.add(share(net, rows))
    return gradients


def grads(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_parts_add_up_to_one_backward(factor: float) -> None:
    """float64 and whatever the result is multiplied by afterwards: 1e-14, some roundings of numbers of order 1."""
    whole, ours = model(), model()
    (factor * share(whole, torch.cat(parts()))).backward()
    loss = gathered(ours).loss()
    (factor * loss).backward()
    assert loss.item() == pytest.approx(share(whole, torch.cat(parts())).item(), abs=1e-14)
    assert len(grads(ours)) == 4
    assert all(torch.allclose(a, b, rtol=0, atol=1e-14) for a, b in zip(grads(ours), grads(whole), strict=True))


def test_nothing_is_written_before_the_backward_and_a_second_one_adds() -> None:
    once, twice = model(), model()
    gathered(once).loss().backward()
    first = gathered(twice)
    assert not grads(twice)
    (3 * first.loss()).backward()
    gathered(twice).loss().backward()
    expected = [4 * g for g in grads(once)]
    assert all(torch.allclose(a, b, rtol=0, atol=1e-14) for a, b in zip(grads(twice), expected, strict=True))


def test_a_parameter_that_no_part_uses_gets_no_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    gradients = EarlyBackward([unused, used], "cpu")
    gradients.add((2 * used).sum())
    gradients.loss().backward()
    assert unused.grad is None
    assert used.grad is not None
    assert used.grad.tolist() == [2, 2]


def test_a_parameter_that_only_some_parts_use() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    gradients = EarlyBackward([a, b], "cpu")
    gradients.add((2 * a).sum())
    gradients.add((3 * b).sum() + a.square().sum())
    gradients.add((4 * b).sum())
    gradients.loss().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.tolist(), b.grad.tolist()) == ([4, 4], [7, 7])


def test_gradients_that_share_memory_are_kept_apart() -> None:
    """Autograd gives one tensor to both terms of a sum, and an expanded one to the terms of a plain sum."""
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    gradients = EarlyBackward([a, b], "cpu")
    for weight in (1.0, 2.0):
        gradients.add(weight * (a + b).sum())
    gradients.add((a * torch.arange(3.0)).sum())
    (2 * gradients.loss()).backward()
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.tolist(), b.grad.tolist()) == ([6, 8, 10], [6, 6, 6])
    again = EarlyBackward([a, b], "cpu")
    again.add(((a + b) * torch.arange(3.0)).sum())
    (2 * again.loss()).backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([6, 10, 14], [6, 8, 10])


def test_the_loss_scale_is_taken_out_again() -> None:
    """A power of two changes no digit of float32; it is there for intermediate gradients in 16 bit."""
    plain, scaled = model(torch.float32), model(torch.float32)
    gathered(plain).loss().backward()
    loss = gathered(scaled, 2.0**12).loss()
    loss.backward()
    assert torch.equal(loss, gathered(plain).loss())
    assert all(torch.equal(a, b) for a, b in zip(grads(plain), grads(scaled), strict=True))


def test_small_16_bit_gradients_survive_by_the_scale() -> None:
    """1e-9 is nothing in float16; scaled by 2^16 it is a number on its way through the layer."""

    def gradient(scale: float) -> float:
        weight = nn.Parameter(torch.ones(1))
        gradients = EarlyBackward([weight], "cpu", scale)
        gradients.add((weight.half() * 1e-3).float().sum() * 1e-6)
        gradients.loss().backward()
        assert weight.grad is not None
        return weight.grad.item()

    assert gradient(1.0) == 0
    assert gradient(2.0**16) == pytest.approx(1e-9, rel=1e-2)


def test_the_backward_of_a_part_is_not_cast_to_16_bit() -> None:
    """Float32 products of a float32 backward, though training_step runs under autocast."""
    exact, ours = model(torch.float32), model(torch.float32)
    gathered(exact).loss().backward()
    gradients = EarlyBackward(list(ours.parameters()), "cpu")
    for rows in parts(torch.float32):
        with torch.autocast("cpu", enabled=False):
            loss = share(ours, rows)
        with torch.autocast("cpu", torch.bfloat16):
            gradients.add(loss)
    gradients.loss().backward()
    assert all(torch.equal(a, b) for a, b in zip(grads(ours), grads(exact), strict=True))


def test_a_part_is_freed_before_the_next_is_computed() -> None:
    """What is saved for the backward does not grow with the number of parts."""

    def peak(number: int) -> int:
        net, held, most = model(), 0, 0
        alive: list[weakref.ref[Any]] = []

        def living() -> list[Any]:
            return [saved for reference in alive if (saved := reference()) is not None]

        class Saved:
            def __init__(self, x: Tensor) -> None:
                self.x = x

        def pack(x: Tensor) -> Saved:
            saved = Saved(x)
            alive.append(weakref.ref(saved))
            return saved

        gradients = EarlyBackward(list(net.parameters()), "cpu")
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.x):
            for _ in range(number):
                loss = share(net, torch.randn(8, 5, dtype=torch.float64))
                held = sum(saved.x.nbytes for saved in living())
                most = max(most, held)
                gradients.add(loss)
                del loss
                gc.collect()
                assert not living()
            gradients.loss()
        assert held > 0
        return most

    assert peak(1) == peak(5)


def test_the_sum_keeps_no_graph_of_its_parts() -> None:
    gradients = gathered(model())
    assert gradients.total is not None
    assert not gradients.total.requires_grad
    assert gradients.loss().requires_grad


class Gathering(L.LightningModule):
    """One weight vector, whose loss is gathered in parts or computed at once."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.net, self.early = model(torch.float32), early

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if not self.early:
            return share(self.net, batch)
        gradients = EarlyBackward(list(self.parameters()), "cpu")
        for rows in batch.split(2):
            gradients.add(share(self.net, rows))
        return gradients.loss()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_trainer_accumulates_and_clips_as_ever(tmp_path: Path) -> None:
    """float32 sums in another order on weights of order 1."""
    rows = torch.randn(24, 5, generator=torch.Generator().manual_seed(2))
    ends = []
    for early in (False, True):
        module = Gathering(early)
        L.Trainer(
            accelerator="cpu",
            max_epochs=2,
            accumulate_grad_batches=2,
            gradient_clip_val=0.05,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        ).fit(module, torch.utils.data.DataLoader(rows, batch_size=6))  # type: ignore[arg-type]
        ends.append([p.detach() for p in module.parameters()])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(*ends, strict=True))
    assert not torch.equal(ends[0][0], model(torch.float32)[0].weight)


def test_the_loss_scale_is_the_trainers() -> None:
    def trainer(plugin: Any) -> Any:
        return SimpleNamespace(precision_plugin=plugin)

    assert loss_scale(trainer(SimpleNamespace())) is None
    assert loss_scale(trainer(SimpleNamespace(scaler=None))) is None
    assert loss_scale(trainer(SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: 1024)))) == 1024.0


@pytest.mark.parametrize("first", [True, False])
def test_a_sum_takes_in_another_and_leaves_it_as_it_is(first: bool) -> None:
    """Whether or not it has parts of its own; a sum without parts adds nothing."""
    net, (rows, *others) = model(), parts()
    whole, other = EarlyBackward(list(net.parameters()), "cpu"), EarlyBackward(list(net.parameters()), "cpu")
    if first:
        whole.add(share(net, rows))
    for more in others:
        other.add(share(net, more))
    before = [g.clone() for g in other.gradients if g is not None]
    whole.include(other)
    whole.include(EarlyBackward(list(net.parameters()), "cpu"))
    whole.add(share(net, rows))
    assert all(torch.equal(g, b) for g, b in zip(other.gradients, before, strict=True) if g is not None)
    expected = sum((share(net, r) for r in others), (1 + first) * share(net, rows))
    (whole.loss() * 2).backward()
    assert torch.allclose(whole.total, expected)  # type: ignore[arg-type]
    ours = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    (expected * 2).backward()
    theirs = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
