"""A model whose attention cannot do without padding trains to the same weights and losses, in every stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from rlhf_lightning.models import backbone, loading
from rlhf_lightning.models.ragged_attention import NAME
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.reward.data import RankingDataModule
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.stage import StageModule
from tests.conftest import TinyRuns
from tests.invariance.updates import REORDERED, SETTINGS, Weights, distance, train

ROWS = "configs/tiny/data"
LIMITS: dict[str, Any] = {"max_prompt_tokens": 128, "seed": 5}
Made = tuple[StageModule, L.LightningDataModule]


def sft(tiny: TinyRuns) -> Made:
    rows = f"{ROWS}/demonstrations.jsonl"
    data = DemonstrationDataModule(rows, val=rows, batch_size=8, packing=True, **LIMITS)
    return SFTModule("embedded:tiny", **SETTINGS), data


def reward(tiny: TinyRuns) -> Made:
    rows = f"{ROWS}/rankings.jsonl"
    return RewardModule(str(tiny.root / "sft"), **SETTINGS), RankingDataModule(rows, val=rows, batch_size=8, **LIMITS)


def ppo(tiny: TinyRuns) -> Made:
    rows = f"{ROWS}/prompts.jsonl"
    settings = SETTINGS | {"sampling": SamplingSettings(10), "num_minibatches": 2, "kl_coef": 0.1}
    start = (str(tiny.root / "sft"), str(tiny.root / "reward"))
    return PPOModule(*start, **settings), PromptDataModule(rows, val=rows, batch_size=16, **LIMITS)


def run(make: Callable[[TinyRuns], Made], tiny: TinyRuns, root: Path) -> tuple[tuple[Weights, Weights], Any, set[str]]:
    """Weights before and after, the last metrics, and how attention was computed."""
    module, data = make(tiny)
    weights = train(root, module, data)
    metrics = {k: float(v) for k, v in module.trainer.callback_metrics.items() if not k.startswith("time/")}
    kinds = {m.lm.config._attn_implementation for m in module.modules() if isinstance(m, backbone.Backbone)}
    return weights, metrics, kinds


@pytest.mark.parametrize("make", [sft, reward, ppo])
def test_padded_attention_trains_to_the_same(
    make: Callable[[TinyRuns], Made], tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, metrics, kinds = run(make, tiny, tmp_path / "ragged")
    assert kinds == {NAME}
    assert "policy/loss" in metrics if make is ppo else {"train/loss", "val/loss"} <= metrics.keys()
    for kind in ("sdpa", "eager"):
        monkeypatch.setattr(loading, "enable_ragged", lambda lm, kind=kind: lm.set_attn_implementation(kind))
        weights, others, kinds = run(make, tiny, tmp_path / kind)
        assert kinds == {kind}
        assert distance(plain, weights) <= REORDERED
        assert others == pytest.approx(metrics, rel=1e-3, abs=1e-5)
