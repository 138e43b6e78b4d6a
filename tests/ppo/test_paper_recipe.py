"""Optimizer and schedule of C.4, as a run with the module's own defaults takes its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.schedule import OptimizerSettings
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import data, trainer

POLICY_LR, VALUE_LR = 1e-5, 9e-6


class Steps(PPOModule):
    """Notes both learning rates of every optimizer step, and whether the iteration goes through its rows once."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        rates = {g["name"]: g["lr"] for g in self.trainer.optimizers[0].param_groups}
        self.__dict__.setdefault("rates", []).append(rates)
        super().optimizer_step(*args, **kwargs)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        rows = self.__dict__.setdefault("seen", {}).setdefault(self.current_epoch, [])
        rows += batch.experience.rollout.prompt_ids.sum(1).tolist()
        return super().training_step(batch, batch_idx)


def test_twelve_iterations_with_the_defaults(tiny: TinyRuns, tmp_path: Path) -> None:
    """8 minibatches, one pass, Adam's betas, and 10 iterations of warmup from a tenth, for policy and value apart."""
    ppo: Any = Steps(
        str(tiny.root / "sft"),
        str(tiny.root / "reward"),
        optimizer=OptimizerSettings(lr=POLICY_LR),
        value_lr=VALUE_LR,
        sampling=SamplingSettings(max_response_tokens=2),
        seed=1,
    )
    run = trainer(tmp_path, max_epochs=12)
    run.fit(ppo, datamodule=data(16))
    assert run.global_step == 12 * 8
    for step, rates in enumerate(ppo.rates):
        factor = min(1.0, 0.1 + 0.9 * step / (10 * 8))
        assert rates == {
            "policy": pytest.approx(POLICY_LR * factor, rel=1e-9),
            "value": pytest.approx(VALUE_LR * factor, rel=1e-9),
        }
    assert ppo.rates[0]["policy"] == pytest.approx(POLICY_LR / 10)
    assert ppo.rates[79]["policy"] < POLICY_LR == ppo.rates[80]["policy"] == ppo.rates[95]["policy"]
    groups = run.optimizers[0].param_groups
    assert all((g["betas"], g["weight_decay"]) == ((0.9, 0.95), 0.0) for g in groups)
    assert [g["name"] for g in groups] == ["policy", "value"]
    assert not {id(p) for p in groups[0]["params"]} & {id(p) for p in groups[1]["params"]}
    assert all(len(rows) == 16 for rows in ppo.seen.values()), "each row once an iteration"


def test_defaults_are_the_papers() -> None:
    import inspect

    defaults = {k: p.default for k, p in inspect.signature(PPOModule.__init__).parameters.items()}
    assert (defaults["num_minibatches"], defaults["ppo_epochs"], defaults["kl_coef"]) == (8, 1, 0.02)
    assert (defaults["clip_range"], defaults["gamma"]) == (0.2, 1.0)
    assert (defaults["optimizer"].beta1, defaults["optimizer"].beta2) == (0.9, 0.95)
    schedule = defaults["schedule"]
    assert (schedule.name, schedule.warmup, schedule.warmup_start) == ("constant", 80, 0.1)
