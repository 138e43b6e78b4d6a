"""Steps without a finite gradient: skipped exactly, counted, explained, and ended when there are too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.cli import main
from rlhf_lightning.fitting.guard import NonFiniteError, NonFiniteGuard
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.sft.packing import SFTBatch
from tests.conftest import TinyRuns
from tests.resume.comparison import scalars

NAN, INF = float("nan"), float("inf")


class Poisoned(SFTModule):
    """Its loss is not finite at some steps, or for one demonstration."""

    def __init__(self, steps: tuple[int, ...] = (), row: str = "", value: float = NAN, **settings: Any) -> None:
        super().__init__("embedded:tiny", schedule=ScheduleSettings("constant"), seed=1, **settings)
        self.steps, self.row, self.value = steps, row, value

    def loss(self, batch: SFTBatch) -> Tensor:
        texts = [self.template.tokenizer.decode(ids) for ids in batch.input_ids]
        bad = self.global_step in self.steps or (self.row and any(self.row in t for t in texts))
        return super().loss(batch) * (self.value if bad else 1.0)


class Watching(L.Callback):
    """Notes weights and optimizer state after every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.moments: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.weights.append({n: p.detach().clone() for n, p in pl_module.trainable().items()})
        states = trainer.optimizers[0].state.values()
        self.moments.append([s[k].clone() for s in states for k in ("step", "exp_avg", "exp_avg_sq")])


def fit(root: Path, module: SFTModule, *callbacks: L.Callback, **overrides: Any) -> L.Trainer:
    settings: dict[str, Any] = {"max_epochs": 1, "log_every_n_steps": 1, "logger": False} | overrides
    data = DemonstrationDataModule("configs/tiny/data/demonstrations.jsonl", batch_size=4, max_prompt_tokens=128)
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=root,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bad_step_changes_neither_weights_nor_optimizer(tmp_path: Path, value: float) -> None:
    watching, module = Watching(), Poisoned(steps=(2,), value=value)
    fit(tmp_path, module, watching)
    assert same(watching.weights[1], watching.weights[2])
    assert all(torch.equal(a, b) for a, b in zip(watching.moments[1], watching.moments[2], strict=True))
    assert not same(watching.weights[2], watching.weights[3])
    assert module.guard.skipped == 1
    assert module.guard.in_a_row == 0


def test_skipped_steps_are_logged(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    fit(tmp_path, Poisoned(steps=(1, 3)), logger=TensorBoardLogger(tmp_path, name="", version="tensorboard"))
    logged = scalars(tmp_path)
    assert [logged["skipped_steps", step] for step in range(6)] == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_too_many_in_a_row_end_the_run_and_name_the_input(tmp_path: Path, accumulate: int) -> None:
    module = Poisoned(steps=(1, 2, 3), optimizer=OptimizerSettings(max_skipped_steps=1))
    watching = Watching()
    with pytest.raises(NonFiniteError) as error:
        fit(tmp_path, module, watching, max_epochs=3, accumulate_grad_batches=accumulate)
    message = str(error.value)
    assert "2 steps in a row" in message
    assert "the loss is not finite" in message
    assert "lora_A" in message
    assert "alone gives a loss that is not finite" in message
    assert "max_skipped_steps" in message
    now = {n: p.detach() for n, p in module.trainable().items()}
    assert same(watching.weights[-1], now)
    assert not (tmp_path / "final").exists()


def test_the_input_that_is_to_blame_is_found(tmp_path: Path) -> None:
    import json

    lines = Path("configs/tiny/data/demonstrations.jsonl").read_text().splitlines()
    prompt = json.loads(lines[5])["prompt"]
    module = Poisoned(row=prompt, optimizer=OptimizerSettings(max_skipped_steps=0))
    with pytest.raises(NonFiniteError) as error:
        fit(tmp_path, module)
    assert prompt in str(error.value)


def parameters(gradient: float) -> dict[str, nn.Parameter]:
    good, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    good.grad, bad.grad = torch.ones(2), torch.tensor([1.0, gradient])
    return {"good": good, "bad": bad}


def test_an_overflow_of_scaled_gradients_is_not_a_divergence() -> None:
    guard = NonFiniteGuard(max_in_a_row=0)
    assert not guard.before_step(parameters(INF), lambda: True, 65536.0, lambda: "")
    assert (guard.overflows, guard.skipped) == (1, 0)


@pytest.mark.parametrize(("finite_loss", "scale"), [(False, 65536.0), (True, 1.0), (True, None)])
def test_a_divergence_is_not_an_overflow(finite_loss: bool, scale: float | None) -> None:
    guard = NonFiniteGuard(max_in_a_row=0)
    with pytest.raises(NonFiniteError, match="first seen in bad"):
        guard.before_step(parameters(NAN), lambda: finite_loss, scale, lambda: "It was me.")
    assert (guard.overflows, guard.skipped) == (0, 1)


def test_good_gradients_are_left_alone() -> None:
    guard, ok = NonFiniteGuard(max_in_a_row=0), parameters(1.0)
    assert guard.before_step(ok, lambda: pytest.fail("asked for nothing"), None, lambda: "")
    assert ok["bad"].grad is not None


@pytest.mark.parametrize(("tensor", "named"), [("value_head", "The value of"), ("reward_head", "The score of")])
def test_a_rollout_that_is_not_finite_stops_before_the_update(
    tiny: TinyRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tensor: str, named: str
) -> None:
    from rlhf_lightning.ppo.roles import Roles

    build = Roles.__init__

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        getattr(self, tensor).weight.data[0] = NAN

    monkeypatch.setattr(Roles, "__init__", broken)
    assert main(tiny.args("ppo", f"broken_{tensor}")) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert named in error[0]
    assert not (tiny.root / f"broken_{tensor}" / "final").exists()


def test_the_gradient_scaler_goes_on_after_dropped_gradients() -> None:
    """The order of 16-bit mixed precision: scale, backward, unscale, guard, step, update. The scale is halved."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    guard = NonFiniteGuard(max_in_a_row=0)
    for gradient in (INF, 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * torch.tensor([1.0, gradient, 1.0])).sum()).backward()
        scaler.unscale_(optimizer)
        made = guard.before_step({"weight": weight}, lambda: True, float(scaler.get_scale()), lambda: "")
        scaler.step(optimizer)
        scaler.update()
        assert made == (gradient == 1.0)
        assert torch.equal(weight.detach(), torch.ones(3)) == (gradient == INF)
    assert scaler.get_scale() == 512.0
    assert (guard.overflows, guard.skipped) == (1, 0)
