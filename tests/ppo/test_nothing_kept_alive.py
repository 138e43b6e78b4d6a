"""Memory does not grow from one iteration or step to the next, and an update leaves nothing of its rollout."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from benchmarks.memory.live import live_bytes, live_tensors
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.reward.data import RankingDataModule
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import data, module, trainer

BATCH, LENGTH = 7, 11
"""Rows and response tokens of a rollout; no weight has such a shape."""


class LiveBytes(L.Callback):
    """Counts the bytes of live tensors at the end of every epoch, or of every step."""

    def __init__(self, each: str) -> None:
        self.each, self.counts = each, list[int]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.each == "step":
            self.counts.append(live_bytes())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.each == "iteration":
            self.counts.append(live_bytes())


class Full(PPOModule):
    """Responses are never ended, so that all rollouts have the same shape."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.template.eos_id = -1


def ppo(tiny: TinyRuns, **overrides: Any) -> PPOModule:
    return module(tiny, Full, sampling=SamplingSettings(max_response_tokens=LENGTH), num_minibatches=1, **overrides)


def of_rollouts() -> list[tuple[int, ...]]:
    """Shapes of live tensors that can only belong to a rollout of BATCH responses of LENGTH tokens."""
    return [tuple(t.shape) for t in live_tensors() if tuple(t.shape[:2]) == (BATCH, LENGTH)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_ppo_iterations_end_with_the_same_tensors(tiny: TinyRuns, tmp_path: Path, checkpointing: bool) -> None:
    seen = LiveBytes("iteration")
    run = ppo(tiny, memory=MemorySettings(gradient_checkpointing=checkpointing))
    fit = trainer(tmp_path, max_epochs=4, callbacks=[seen])
    fit.fit(run, datamodule=data(BATCH))
    assert min(seen.counts[2:]) <= seen.counts[1], seen.counts  # what is kept makes every later count larger


def test_nothing_of_a_rollout_is_left_after_its_update(tiny: TinyRuns, tmp_path: Path) -> None:
    left: list[Any] = []

    class BeforeCollecting(PPOModule):
        def collect(self, *args: Any, **kwargs: Any) -> Any:
            left.append((self.ppo_loop.experience, of_rollouts()))
            result = super().collect(*args, **kwargs)
            assert of_rollouts()  # the shapes are really those of a rollout
            return result

    run = module(tiny, BeforeCollecting, num_minibatches=1)
    run.sampling = ppo(tiny).sampling
    run.template.eos_id = -1
    fit = trainer(tmp_path, max_epochs=3)
    fit.fit(run, datamodule=data(BATCH))
    left.append((run.ppo_loop.experience, of_rollouts()))
    assert left == [(None, [])] * 4


def sft(file: str) -> tuple[L.LightningModule, L.LightningDataModule]:
    return SFTModule("embedded:tiny"), DemonstrationDataModule(file, batch_size=4)


def reward(file: str) -> tuple[L.LightningModule, L.LightningDataModule]:
    return RewardModule("embedded:tiny"), RankingDataModule(file, batch_size=4)


@pytest.mark.parametrize("stage", [sft, reward])
def test_steps_end_with_the_same_tensors(tmp_path: Path, jsonl: Callable[..., str], stage: Callable[..., Any]) -> None:
    """All rows are of one length: the batch of the step that ends is alive, and the only one."""
    seen = LiveBytes("step")
    answers = {"response": "Hay"} if stage is sft else {"responses": ["Hay", "Zzz"], "ranks": [1, 2]}
    run, rows = stage(jsonl([{"prompt": f"Food for cat {i}?"} | answers for i in range(10, 34)]))
    trainer(tmp_path, max_steps=6, callbacks=[seen]).fit(run, datamodule=rows)
    assert min(seen.counts[2:5]) <= seen.counts[1], seen.counts


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_no_part_of_a_step_is_kept_while_the_next_is_computed(
    tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A batch is computed in parts so that memory does not grow with it; a tensor with a graph would keep a part."""
    memory, kept, parts = MemorySettings(micro_batch_tokens=64), list[int](), list[weakref.ref[Any]]()

    def watched(name: str, owner: type) -> None:
        inner = getattr(owner, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if name != "value_loss":  # which belongs to the part of the policy loss before it
                kept.append(sum(ref() is not None for ref in parts))
            result = inner(self, *args, **kwargs)
            for tensor in result if isinstance(result, tuple) else (result,):
                if tensor.requires_grad:
                    parts.append(weakref.ref(tensor))
            return result

        monkeypatch.setattr(owner, name, call)

    if stage == "reward":
        watched("scores", RewardModule)
        run: Any = RewardModule(str(tiny.root / "sft"), memory=memory)
        rows: Any = RankingDataModule("configs/tiny/data/rankings.jsonl", batch_size=8)
        trainer(tmp_path, max_epochs=1).fit(run, datamodule=rows)
    else:
        watched("policy_loss", PPOModule)
        watched("value_loss", PPOModule)
        trainer(tmp_path, max_epochs=1).fit(ppo(tiny, memory=memory), datamodule=data(BATCH))
    assert len(kept) > 3
    assert set(kept) == {0}
