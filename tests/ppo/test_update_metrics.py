"""Metrics of an iteration's update: of whole optimizer steps when saved, of the iteration when logged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.ppo.ptx import PtxSettings
from rlhf_lightning.ppo.update_metrics import UpdateMetrics
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import module, trainer

CPU = torch.device("cpu")
PRETRAINING = "configs/tiny/data/pretraining.jsonl"


def batch(rows: int) -> Any:
    rollout = SimpleNamespace(response_mask=torch.ones(rows, 2, dtype=torch.bool))
    return SimpleNamespace(num_tokens=4, experience=SimpleNamespace(rollout=rollout, logprobs=torch.zeros(rows, 2)))


def add(metrics: UpdateMetrics, loss: float) -> None:
    metrics.add(torch.full((1, 2), 0.1), torch.tensor(loss), torch.tensor(0.0), batch(1))


def test_what_belongs_to_an_unfinished_step_is_not_saved() -> None:
    metrics, resumed = UpdateMetrics(0.2), UpdateMetrics(0.2)
    add(metrics, 1.0)
    add(metrics, 2.0)
    metrics.commit()
    add(metrics, 9.0)  # the step is cut off here, and computed again after the resume
    resumed.load_state_dict(metrics.state_dict())
    add(resumed, 3.0)
    resumed.commit()
    found = resumed.finish(lambda x, reduce_op: x, CPU)
    assert found["policy/loss"] == pytest.approx((1 + 2 + 3) * 4 / 6)
    assert found["policy/ratio_max"] == pytest.approx(torch.tensor(0.1).exp().item())


def test_nothing_computed_is_not_zero() -> None:
    assert UpdateMetrics(0.2).finish(lambda x, reduce_op: x, CPU) == {}


def test_sums_that_nothing_was_added_to_are_reduced_where_the_others_are() -> None:
    """NCCL takes no tensors of the CPU, which a resumed or stopped iteration may have left."""
    devices = []

    def reduce(x: torch.Tensor, reduce_op: str) -> torch.Tensor:
        devices.append(x.device.type)
        return torch.zeros(x.shape)

    UpdateMetrics(0.2).finish(reduce, torch.device("meta"))
    assert devices == ["meta", "meta"]


class CutOff(L.Callback):
    """Saves and raises between the micro-batches of a step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.current_epoch == 1 and trainer.fit_loop.batch_idx == 2:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("cut off")


def test_a_run_cut_off_within_a_step_logs_the_same(tiny: TinyRuns, tmp_path: Path) -> None:
    def fit(name: str, *callbacks: L.Callback, ckpt_path: Path | None = None) -> dict[str, float]:
        ppo = module(tiny, num_minibatches=4, ptx=PtxSettings(coef=1.0, ratio=1, context_tokens=16))
        prompts = PromptDataModule(
            "configs/tiny/data/prompts.jsonl", pretrain=PRETRAINING, batch_size=8, max_prompt_tokens=128
        )
        run = trainer(tmp_path / name, max_epochs=2, accumulate_grad_batches=2, callbacks=list(callbacks))
        run.fit(ppo, datamodule=prompts, ckpt_path=ckpt_path)
        return {k: float(v) for k, v in run.callback_metrics.items() if not k.startswith("time/")}

    whole = fit("whole")
    assert {"policy/loss", "value/loss", "ptx/loss"} <= whole.keys()
    with pytest.raises(RuntimeError, match="cut off"):
        fit("cut", CutOff(tmp_path / "cut.ckpt"))
    assert fit("resumed", ckpt_path=tmp_path / "cut.ckpt") == whole


def test_an_iteration_that_begins_anew_is_counted_once(tiny: TinyRuns, tmp_path: Path) -> None:
    """The same trainer goes on after an error, without a checkpoint."""
    ppo = module(tiny, num_minibatches=4)
    counted: list[float] = []
    finish = ppo.update_metrics.finish

    def counting(reduce: Any, device: torch.device) -> dict[str, float]:
        counted.append(float(ppo.update_metrics._tokens))
        return finish(reduce, device)

    ppo.update_metrics.finish = counting  # type: ignore[method-assign]
    run = trainer(tmp_path, max_epochs=2, callbacks=[CutOff(tmp_path / "cut.ckpt")])
    data = PromptDataModule("configs/tiny/data/prompts.jsonl", batch_size=8, max_prompt_tokens=128)
    with pytest.raises(RuntimeError, match="cut off"):
        run.fit(ppo, datamodule=data)
    run.callbacks = [c for c in run.callbacks if not isinstance(c, CutOff)]  # type: ignore[attr-defined]
    run.fit(ppo, datamodule=data)
    assert len(counted) >= 2
    assert max(counted) <= 8 * ppo.sampling.max_response_tokens


def test_a_validation_does_not_depend_on_its_batches(tiny: TinyRuns, tmp_path: Path) -> None:
    """float32 forwards of other batches: 1e-5."""

    def validate(size: int) -> dict[str, float]:
        prompts = PromptDataModule(
            "configs/tiny/data/prompts.jsonl",
            "configs/tiny/data/prompts.jsonl",
            batch_size=8,
            val_batch_size=size,
            max_prompt_tokens=128,
        )
        (found,) = trainer(tmp_path / str(size)).validate(module(tiny), datamodule=prompts, verbose=False)
        return {k: v for k, v in found.items() if not k.startswith("time/")}

    one, all_at_once = validate(1), validate(24)
    assert one == pytest.approx(all_at_once, rel=1e-5, abs=1e-5)
    assert one["val/score_std"] > 0.01
