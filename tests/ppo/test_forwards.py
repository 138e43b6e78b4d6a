"""Which forwards PPO makes: no reference without a penalty, and the unembedding for response tokens alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.ragged import Ragged
from rlhf_lightning.ppo.buffer import Experience, MicroBatch
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.ppo.roles import Roles
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.reward.data import RankingDataModule
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.schedule import OptimizerSettings
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import data, module, trainer

PROMPTS = "configs/tiny/data/prompts.jsonl"


class Phased(PPOModule):
    """Knows what it is doing, for the spies."""

    phase = "other"

    def _in(self, phase: str, f: Any, *args: Any, **kwargs: Any) -> Any:
        before, type(self).phase = self.phase, phase
        try:
            return f(*args, **kwargs)
        finally:
            type(self).phase = before

    def sample(self, *args: Any, **kwargs: Any) -> Rollout:
        rollout: Rollout = self._in("sample", super().sample, *args, **kwargs)
        return rollout

    def collect(self, *args: Any) -> Any:
        return self._in("collect", super().collect, *args)

    def validation_step(self, *args: Any) -> None:
        self._in("validation", super().validation_step, *args)

    def training_step(self, *args: Any) -> torch.Tensor:
        loss: torch.Tensor = self._in("update", super().training_step, *args)
        return loss


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_the_reference_is_asked_in_training_only_for_a_penalty(
    tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kl_coef: float
) -> None:
    """Validation measures the KL either way."""
    asked: Counter[str] = Counter()
    computed: Counter[str] = Counter()
    logprobs, compute = Roles.logprobs, Backbone.hidden_by_adapter

    def spy(self: Roles, role: Any, *args: Any, **kwargs: Any) -> Any:
        asked[f"{role} {Phased.phase}"] += 1
        return logprobs(self, role, *args, **kwargs)

    def hidden_spy(self: Backbone, names: Sequence[str | None], batch: Any) -> list[torch.Tensor]:
        computed.update(f"{name} {Phased.phase}" for name in names)
        return compute(self, names, batch)

    monkeypatch.setattr(Roles, "logprobs", spy)
    monkeypatch.setattr(Backbone, "hidden_by_adapter", hidden_spy)
    ppo = module(tiny, Phased, kl_coef=kl_coef)
    prompts = PromptDataModule(PROMPTS, val=PROMPTS, batch_size=8, max_prompt_tokens=128)
    run = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0)
    run.fit(ppo, datamodule=prompts)
    for counts in (asked, computed):
        assert (counts["reference collect"] > 0) == (kl_coef > 0)
        assert counts["reference update"] == 0
        assert counts["reference validation"] > 0
        assert counts["policy collect"] > 0
        assert counts["policy update"] > 0
    assert float(run.callback_metrics["val/kl"]) != 0


def test_logits_are_computed_for_response_tokens_alone(
    tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of policy and reference once each in scoring, and of the policy once in the update; never of reward and value."""
    tokens: Counter[str] = Counter()
    rows: Counter[tuple[str, str]] = Counter()
    states: list[torch.Tensor] = []
    asked: list[str] = []
    logprobs = Roles.logprobs

    def spy(
        self: Roles, role: Any, rollout: Rollout, temperature: float, entropy: bool = True, hidden: Any = None
    ) -> Any:
        states.clear()
        asked[:] = [role]
        hidden = self.hidden((role,), rollout)[role] if hidden is None else hidden
        out = logprobs(self, role, rollout, temperature, entropy, hidden)
        assert torch.equal(torch.cat(states), hidden[rollout.sequences.before])
        return out

    class Counting(Phased):
        def collect(self, *args: Any) -> Any:
            out: tuple[Experience, dict[str, float]] = super().collect(*args)
            tokens["collect"] += int(out[0].rollout.response_mask.sum())
            return out

        def training_step(self, batch: MicroBatch, batch_idx: int) -> torch.Tensor:
            tokens["update"] += int(batch.experience.rollout.response_mask.sum())
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(Roles, "logprobs", spy)
    ppo = module(tiny, Counting, memory=MemorySettings(100))
    ppo.configure_model()

    def note(_: Any, inputs: tuple[torch.Tensor], __: torch.Tensor) -> None:
        states.append(inputs[0])
        if Counting.phase in ("collect", "update"):
            rows[Counting.phase, asked[0]] += len(inputs[0])

    ppo.roles.backbone("policy").unembed.register_forward_hook(note)
    trainer(tmp_path, max_epochs=2).fit(ppo, datamodule=data())
    assert tokens["collect"] == tokens["update"] > 0
    assert rows == {
        ("collect", "policy"): tokens["collect"],
        ("collect", "reference"): tokens["collect"],
        ("update", "policy"): tokens["update"],
    }


def test_the_reward_model_never_asks_the_unembedding(tiny: TinyRuns, tmp_path: Path) -> None:
    rows = "configs/tiny/data/rankings.jsonl"
    reward = RewardModule(str(tiny.root / "sft"), seed=1)
    reward.configure_model()

    def refuse(*_: Any) -> None:
        raise AssertionError("logits of a reward model")

    reward.backbone.unembed.register_forward_hook(refuse)
    settings: dict[str, Any] = {"max_prompt_tokens": 128, "max_response_tokens": 32}
    trainer(tmp_path, max_epochs=1).fit(reward, datamodule=RankingDataModule(rows, val=rows, **settings))


@pytest.mark.parametrize("limit", [4096, 120])
def test_roles_in_one_forward_are_roles_one_by_one(
    tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Scores, losses and weights after two iterations; a forward has no more tokens than it may, unless of one row."""
    forwards: list[tuple[int, int]] = []
    hidden_ragged = Backbone.hidden_ragged

    def spy(self: Backbone, batch: Ragged) -> torch.Tensor:
        forwards.append((len(batch), sum(len(block.keys) for block in batch.layout.blocks)))
        return hidden_ragged(self, batch)

    def run(root: Path) -> tuple[dict[str, torch.Tensor], dict[str, float], int]:
        forwards.clear()
        # Adam's usual eps makes a step of 1e-2 of a gradient that is nothing but the order of a sum.
        ppo = module(tiny, memory=MemorySettings(limit), optimizer=OptimizerSettings(lr=1e-2, eps=1e-3))
        fit = trainer(root, max_epochs=2)
        fit.fit(ppo, datamodule=data())
        metrics = {k: float(v) for k, v in fit.callback_metrics.items() if not k.startswith("time/")}
        return ppo.trainable(), metrics, len(forwards)

    monkeypatch.setattr(Backbone, "hidden_ragged", spy)
    monkeypatch.setattr(Roles, "trained_together", True)
    together, metrics, few = run(tmp_path / "together")
    # One row of four roles in scoring; in the update a row longer than half the limit is computed role by role.
    assert all(tokens <= limit or rows == 4 for tokens, rows in forwards)
    monkeypatch.setattr(Backbone, "takes_rows", lambda *_: False)
    monkeypatch.setattr(Roles, "trained_together", False)
    apart, expected, many = run(tmp_path / "apart")
    assert many == 2 * few + 2 * 2 if limit == 4096 else many > few
    assert all(torch.allclose(together[n], apart[n], atol=1e-6) for n in apart)
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4)
