"""One iteration through the package's Trainer ends where a plain PyTorch program ends."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.ppo.buffer import UpdatePlan
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from tests.conftest import TinyRuns
from tests.references.reference_ppo import Finished, Settings, iteration

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ROWS, EPOCHS, MINIBATCHES, ACCUMULATE = 16, 2, 4, 2
TOLERANCE = 2e-4
"""Relative to the size of each tensor's update. float32 sums in another order (padding, micro-batches, merged adapters)
make 1e-6 of most tensors' updates and 2e-5 of the queries' and keys', whose gradients are the smallest and whose
rounding Adam's division amplifies most. A tenth more of any coefficient makes 3e-2 or more."""

SETTINGS = Settings(
    policy_lr=3e-3,
    value_lr=1e-2,
    betas=(0.9, 0.95),
    eps=1e-5,
    weight_decay=0.01,
    warmup=5,
    clip_norm=1.5,  # some gradients are longer and some shorter, or their scale would not count
    temperature=0.8,
    kl_coef=0.1,
    clip_range=0.2,
    value_clip_range=0.1,
    value_coef=0.5,
    gamma=0.98,
    gae_lambda=0.9,
    missing_eos_penalty=0.7,
    eos_id=2,
)


class Recorded(PPOModule):
    """Keeps its first rollout."""

    rollout: Rollout | None = None

    def collect(self, *args: Any, **kwargs: Any) -> Any:
        out = super().collect(*args, **kwargs)
        self.rollout = out[0].rollout
        return out


def package_module(tiny: TinyRuns) -> Recorded:
    """The policy starts a little away from the SFT model, or the KL penalty would be 0."""
    s = SETTINGS
    made = Recorded(
        str(tiny.root / "sft"),
        str(tiny.root / "reward"),
        optimizer=OptimizerSettings(s.policy_lr, *s.betas, s.eps, s.weight_decay),
        schedule=ScheduleSettings("constant", warmup=s.warmup),
        value_lr=s.value_lr,
        sampling=SamplingSettings(max_response_tokens=24, temperature=s.temperature),
        num_minibatches=MINIBATCHES,
        ppo_epochs=EPOCHS,
        kl_coef=s.kl_coef,
        clip_range=s.clip_range,
        value_clip_range=s.value_clip_range,
        value_coef=s.value_coef,
        gamma=s.gamma,
        gae_lambda=s.gae_lambda,
        missing_eos_penalty=s.missing_eos_penalty,
        memory=MemorySettings(60),
        seed=3,
    )
    made.configure_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in made.roles.backbone("policy").adapter_state("policy").values():
            tensor.add_(0.03 * torch.randn(tensor.shape, generator=generator))
    return made


def weights(ppo: PPOModule) -> dict[str, Tensor]:
    """Copies of everything that is trained."""
    found = {f"policy.{k}": v for k, v in ppo.roles.backbone("policy").adapter_state("policy").items()}
    found |= {f"value.{k}": v for k, v in ppo.roles.backbone("value").adapter_state("value").items()}
    found |= {f"head.{k}": v for k, v in ppo.roles.value_head.state_dict().items()}
    return {k: v.detach().clone() for k, v in found.items()}


def flat(finished: Finished) -> dict[str, Tensor]:
    parts = {"policy": finished.policy, "value": finished.value, "head": finished.head}
    return {f"{part}.{k}": v.detach() for part, tensors in parts.items() for k, v in tensors.items()}


def tokens(ids: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[valid].tolist() for row, valid in zip(ids, mask, strict=True)]


class Runs:
    """The package's iteration and the reference's, from the same tokens."""

    def __init__(self, tiny: TinyRuns, directory: Path) -> None:
        ppo = package_module(tiny)
        self.start = weights(ppo)
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            accumulate_grad_batches=ACCUMULATE,
            gradient_clip_val=SETTINGS.clip_norm,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=directory,
        )
        data = PromptDataModule("configs/tiny/data/prompts.jsonl", batch_size=ROWS, max_prompt_tokens=128)
        trainer.fit(ppo, datamodule=data)
        assert ppo.rollout is not None
        self.rollout = ppo.rollout
        self.package, self.metrics = weights(ppo), {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.tiny, self.seed = tiny, ppo.seed

    def reference(self, settings: Settings) -> Finished:
        plan = UpdatePlan(ROWS, EPOCHS, MINIBATCHES, ACCUMULATE)
        return iteration(
            self.tiny.root / "sft" / "final",
            self.tiny.root / "reward" / "final",
            {k.removeprefix("policy."): v for k, v in self.start.items() if k.startswith("policy.")},
            tokens(self.rollout.prompt_ids, self.rollout.prompt_mask),
            tokens(self.rollout.response_ids, self.rollout.response_mask),
            [torch.cat(step).tolist() for step in plan.order(self.seed, 0, list(range(ROWS)))],
            settings,
        )

    def differences(self, finished: Finished) -> dict[str, float]:
        """Of every tensor, how far apart the two end, relative to how far the reference has moved."""
        ends = flat(finished)
        assert ends.keys() == self.package.keys()
        moved = {name: (ends[name] - start).norm() for name, start in self.start.items()}
        return {name: float((ends[name] - self.package[name]).norm() / moved[name]) for name in ends}


@pytest.fixture(scope="module")
def runs(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def finished(runs: Runs) -> Finished:
    return runs.reference(SETTINGS)


def test_the_iteration_has_something_of_everything(runs: Runs) -> None:
    """Complete and cut responses, a policy that has moved, ratios and values that are clipped."""
    metrics = runs.metrics
    assert 0 < metrics["rollout/eos_rate"] < 1
    assert metrics["rollout/kl"] > 0.01
    assert 0.01 < metrics["policy/clip_frac"] < 0.5
    assert len(runs.start) == 2 * 2 * 14 + 2


def test_final_weights(runs: Runs, finished: Finished) -> None:
    assert max(runs.differences(finished).values()) < TOLERANCE


def test_metrics(runs: Runs, finished: Finished) -> None:
    """float32 means over 330 tokens, found to differ by at most 5e-6: 1e-4."""
    common = {k: runs.metrics[k] for k in finished.metrics}
    assert common == pytest.approx(finished.metrics, rel=1e-4, abs=1e-5)


OTHER: dict[str, Any] = {"warmup": 6, "betas": (0.9, 0.97), "value_clip_range": 0.11, "eos_id": 3}


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_every_setting_counts(runs: Runs, name: str) -> None:
    """With one number a little larger in the reference alone, the weights are not the same."""
    other = OTHER[name] if name in OTHER else 1.1 * getattr(SETTINGS, name)
    changed = runs.reference(replace(SETTINGS, **{name: other}))
    assert max(runs.differences(changed).values()) > 5 * TOLERANCE
