"""Errors and signals at awkward moments: the checkpoint they leave leads to the end of the uninterrupted run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.stage_checkpoint import StageCheckpoint
from rlhf_lightning.fitting.stopping import RunStopped
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.stage import StageModule
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import data as prompts
from tests.ppo.test_ppo_run import module as ppo_module

DEMONSTRATIONS = "configs/tiny/data/demonstrations.jsonl"


class CrashError(Exception):
    pass


class At(L.Callback):
    """Does something in a hook, once."""

    def __init__(self, hook: str, count: int, act: Any) -> None:
        self.left, self.act = count, act
        setattr(self, hook, self._hook)

    def _hook(self, trainer: L.Trainer, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def crash() -> None:
    raise CrashError


def signal_self(signum: int) -> Any:
    return lambda: os.kill(os.getpid(), signum)


def sft() -> SFTModule:
    settings = {"optimizer": OptimizerSettings(lr=1e-2), "schedule": ScheduleSettings("constant"), "seed": 4}
    return SFTModule("embedded:tiny", lora=LoraSettings(rank=4, alpha=8, dropout=0.3), **settings)  # type: ignore[arg-type]


def demonstrations() -> DemonstrationDataModule:
    return DemonstrationDataModule(DEMONSTRATIONS, DEMONSTRATIONS, batch_size=2, max_prompt_tokens=128)


def fit(
    root: Path, module: StageModule, data: Any, *callbacks: L.Callback, resume: bool = False, **settings: Any
) -> StageModule:
    checkpoint = StageCheckpoint(dirpath=str(root), every_n_epochs=100, max_minutes=None)
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint, *callbacks],
        **{"num_sanity_val_steps": 0, **settings},
    )
    trainer.fit(module, datamodule=data, ckpt_path="last" if resume else None)
    return module


def assert_equal(one: StageModule, other: StageModule) -> None:
    expected = one.trainable()
    assert all(torch.equal(p, expected[n]) for n, p in other.trainable().items())


def assert_ends_like(whole: StageModule, root: Path, module: StageModule, data: Any, **settings: Any) -> None:
    """Go on from the checkpoint in `root`: as many steps as the uninterrupted run, and the same weights."""
    resumed = fit(root, module, data, resume=True, **settings)
    assert resumed.trainer.global_step == whole.trainer.global_step
    assert_equal(whole, resumed)


SFT_MOMENTS = [
    ("on_train_batch_start", 7),  # the third micro-batch of a step of four
    ("on_train_batch_end", 6),
    ("on_before_optimizer_step", 2),
    ("on_before_zero_grad", 3),
    ("on_before_backward", 6),
    ("on_validation_batch_start", 5),
    ("on_validation_end", 1),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_start", 2),
]


@pytest.mark.parametrize(("hook", "count"), SFT_MOMENTS, ids=[f"{h}-{c}" for h, c in SFT_MOMENTS])
def test_sft_goes_on_from_an_error_anywhere(tmp_path: Path, hook: str, count: int) -> None:
    settings: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 4}
    whole = fit(tmp_path / "whole", sft(), demonstrations(), **settings)
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), At(hook, count, crash), **settings)
    assert (tmp_path / "last.ckpt").is_file()
    assert_ends_like(whole, tmp_path, sft(), demonstrations(), **settings)


@pytest.mark.parametrize("hook", ["on_train_start", "on_sanity_check_start", "on_train_epoch_start"])
def test_an_error_before_a_resumed_run_goes_on_costs_nothing(tmp_path: Path, hook: str) -> None:
    settings: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 4}
    whole = fit(tmp_path / "whole", sft(), demonstrations(), **settings)
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), At("on_before_optimizer_step", 3, crash), **settings)
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), At(hook, 1, crash), resume=True, num_sanity_val_steps=1, **settings)
    assert_ends_like(whole, tmp_path, sft(), demonstrations(), **settings)


def test_a_signal_in_the_sanity_check_of_a_resumed_run_costs_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_epochs": 2}
    whole = fit(tmp_path / "whole", sft(), demonstrations(), **settings)
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), At("on_before_optimizer_step", 3, crash), **settings)
    stop = At("on_validation_start", 1, signal_self(signal.SIGTERM))
    with pytest.raises(RunStopped, match=r"Nothing was done since .*last\.ckpt was read. Start the same command again"):
        fit(tmp_path, sft(), demonstrations(), stop, resume=True, num_sanity_val_steps=1, **settings)
    assert_ends_like(whole, tmp_path, sft(), demonstrations(), **settings)


def test_an_error_before_a_resumed_iteration_goes_on_keeps_its_rollout(tiny: TinyRuns, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_epochs": 2}
    make = lambda: ppo_module(tiny, num_minibatches=4)  # noqa: E731
    whole = fit(tmp_path / "whole", make(), prompts(), **settings)
    with pytest.raises(CrashError):
        fit(tmp_path, make(), prompts(), At("on_before_optimizer_step", 7, crash), **settings)
    with pytest.raises(CrashError):
        fit(tmp_path, make(), prompts(), At("on_train_epoch_start", 1, crash), resume=True, **settings)
    with pytest.raises(UserError, match="the checkpoint's iteration has 8 prompts, and"):
        other: Any = make()
        other.resume_with_changes = True
        fit(tmp_path, other, prompts(4), resume=True, **settings)
    assert_ends_like(whole, tmp_path, make(), prompts(), **settings)


def test_ppo_goes_on_from_an_error_in_a_rollout_and_in_an_update(tiny: TinyRuns, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_epochs": 3}
    make = lambda: ppo_module(tiny, num_minibatches=4)  # noqa: E731
    whole = fit(tmp_path / "whole", make(), prompts(), **settings)
    first: Any = make()
    sample = first.sample

    def failing(batch: Any, purpose: str, iteration: int, progress: Any = None) -> Any:
        if iteration == 1:
            crash()
        return sample(batch, purpose, iteration, progress)

    first.sample = failing
    with pytest.raises(CrashError):
        fit(tmp_path, first, prompts(), **settings)
    with pytest.raises(CrashError):
        fit(tmp_path, make(), prompts(), At("on_train_batch_start", 3, crash), resume=True, **settings)
    assert_equal(whole, fit(tmp_path, make(), prompts(), resume=True, **settings))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_run_at_the_next_step_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], signum: int
) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(RunStopped) as stopped:
        fit(tmp_path, sft(), demonstrations(), At("on_train_batch_start", 3, signal_self(signum)), max_epochs=2)
    name = signal.Signals(signum).name
    assert str(stopped.value).startswith(f"Stopped by {name}. The checkpoint is {tmp_path / 'last.ckpt'}")
    assert "--ckpt_path last" in str(stopped.value)
    assert stopped.value.status == 128 + signum
    assert f"{name}: stopping after this step" in capsys.readouterr().out
    assert signal.getsignal(signum) == before
    whole = fit(tmp_path / "whole", sft(), demonstrations(), max_epochs=2)
    assert_equal(whole, fit(tmp_path, sft(), demonstrations(), resume=True, max_epochs=2))


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("on_validation_start", "No step was made yet"),
        ("on_before_optimizer_step", "No checkpoint was written of its 1 steps, as the trainer has no StageCheckpoint"),
    ],
)
def test_a_stop_without_a_checkpoint_says_why(tmp_path: Path, hook: str, said: str) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        callbacks=[At(hook, 1, signal_self(signal.SIGTERM))],
        max_epochs=1,
    )
    with pytest.raises(RunStopped, match=said):
        trainer.fit(sft(), datamodule=demonstrations())


def test_a_second_signal_ends_it_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(SystemExit):
            fit(tmp_path, sft(), demonstrations(), At("on_train_batch_start", 3, twice), max_epochs=2)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from then on
    assert "Stopped at once" in capsys.readouterr().out
    assert not (tmp_path / "last.ckpt").exists()


def test_an_error_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), At("on_train_batch_start", 1, crash), max_epochs=1)
    assert not list(tmp_path.glob("*.ckpt*"))
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize(
    ("ended_by", "said", "steps"),
    [
        (
            {"max_steps": 2},
            "had ended within an epoch, whose other batches are left out",
            True,
        ),
        ({"max_time": "00:00:00:00", "max_epochs": 2}, "had been ended by a callback or trainer.max_time", False),
    ],
)
def test_what_is_left_out_of_a_longer_run_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ended_by: dict[str, Any], said: str, steps: bool
) -> None:
    ended = fit(tmp_path, sft(), demonstrations(), **ended_by).trainer
    ended.save_checkpoint(tmp_path / "last.ckpt")
    assert said not in capsys.readouterr().out
    longer = fit(tmp_path, sft(), demonstrations(), resume=True, max_epochs=2)
    assert said in capsys.readouterr().out
    assert (longer.trainer.global_step > ended.global_step) == steps
    longer.trainer.save_checkpoint(tmp_path / "last.ckpt")
    fit(tmp_path, sft(), demonstrations(), resume=True, max_epochs=3)
    assert (said in capsys.readouterr().out) != steps  # after a whole epoch it is no longer so


def test_another_accumulation_is_refused_where_no_step_of_it_ends(tmp_path: Path) -> None:
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), At("on_before_optimizer_step", 4, crash), max_epochs=1)
    other = sft()
    other.resume_with_changes = True
    with pytest.raises(UserError, match="stands after 3 batches of its epoch, and no step of 2 batches"):
        fit(tmp_path, other, demonstrations(), resume=True, max_epochs=1, accumulate_grad_batches=2)


class Noting(SFTModule):
    """Keeps the batches that it is trained on."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.__dict__.setdefault("seen", []).append(batch)
        self.__dict__.setdefault("held", []).append(any(p.grad is not None for p in self.trainable().values()))
        return super().training_step(batch, batch_idx)


def noted(root: Path, **settings: Any) -> Any:
    module: Any = sft()
    module.__class__ = Noting
    return fit(root, module, demonstrations(), **settings)


def seen(root: Path, **settings: Any) -> list[Any]:
    return list(noted(root, **settings).seen)


def test_overfitting_is_on_the_same_batches_in_every_epoch(tmp_path: Path) -> None:
    ids = [batch.input_ids.tolist() for batch in seen(tmp_path, max_epochs=3, overfit_batches=2)]
    assert len(ids) == 6
    assert ids[:2] == ids[2:4] == ids[4:]


def test_no_gradients_lie_beside_those_of_the_next_step(tmp_path: Path) -> None:
    """In full fine-tuning they are as large as the weights."""
    held = noted(tmp_path, max_epochs=1, limit_train_batches=5, accumulate_grad_batches=2).held
    assert held == [False, True, False, True, False]


def test_the_last_step_of_a_limited_epoch_is_its_own_mean(tmp_path: Path) -> None:
    batches = seen(tmp_path, max_epochs=1, limit_train_batches=3, accumulate_grad_batches=2)
    assert len(batches) == 3
    assert batches[2].step_weight == batches[2].weight


def test_no_checkpoint_is_written_of_half_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([False, True])
    update = torch.optim.AdamW._init_group

    def failing(*args: Any) -> Any:
        if next(steps):
            crash()
        return update(*args)

    monkeypatch.setattr(torch.optim.AdamW, "_init_group", failing)
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), max_epochs=1)
    assert not list(tmp_path.glob("*.ckpt*"))
    assert not (tmp_path / "final").exists()


def test_a_full_disk_stops_the_run_and_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"max_epochs": 2}
    with pytest.raises(CrashError):
        fit(tmp_path, sft(), demonstrations(), At("on_train_batch_start", 3, crash), **settings)
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        stopping = At("on_train_batch_start", 2, signal_self(signal.SIGTERM))
        with pytest.raises(UserError, match="No space left on device"):
            fit(tmp_path, sft(), demonstrations(), stopping, resume=True, **settings)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    whole = fit(tmp_path / "whole", sft(), demonstrations(), **settings)
    assert_equal(whole, fit(tmp_path, sft(), demonstrations(), resume=True, **settings))
