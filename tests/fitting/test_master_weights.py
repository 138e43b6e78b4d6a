"""What is trained is float32 in every precision, and steps too small for 16-bit weights are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.building import base_dtype
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.reward.data import RankingDataModule
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import trainer

LORA: LoraSettings = LoraSettings()
Make = Callable[[TinyRuns, dict[str, Any]], tuple[Any, Any]]


def sft(tiny: TinyRuns, settings: dict[str, Any]) -> tuple[Any, Any]:
    data = DemonstrationDataModule("configs/tiny/data/demonstrations.jsonl", batch_size=4, max_prompt_tokens=128)
    return SFTModule("embedded:tiny", **settings), data


def reward(tiny: TinyRuns, settings: dict[str, Any]) -> tuple[Any, Any]:
    data = RankingDataModule("configs/tiny/data/rankings.jsonl", batch_size=4, max_prompt_tokens=128)
    return RewardModule("embedded:tiny", **settings), data


def ppo(tiny: TinyRuns, settings: dict[str, Any]) -> tuple[Any, Any]:
    sampling = SamplingSettings(max_response_tokens=8)
    sources = (str(tiny.root / "sft"), str(tiny.root / "reward"))
    made = PPOModule(*sources, num_minibatches=2, sampling=sampling, seed=1, **settings)
    return made, PromptDataModule("configs/tiny/data/prompts.jsonl", batch_size=8, max_prompt_tokens=128)


@pytest.mark.parametrize("stage", [sft, reward, ppo])
@pytest.mark.parametrize(
    ("precision", "lora"),
    [
        ("bf16-mixed", LORA),
        ("bf16-mixed", None),
        ("bf16-true", LORA),
        ("16-true", LORA),
    ],
)
def test_weights_and_moments_of_what_is_trained_are_float32(
    tiny: TinyRuns, tmp_path: Path, stage: Make, precision: str, lora: LoraSettings | None
) -> None:
    """The steps are of 1e-6, too small for most 16-bit weights of the tiny model: most weights must have moved."""
    optimizer = OptimizerSettings(lr=1e-6)
    module, data = stage(tiny, {"lora": lora, "optimizer": optimizer, "schedule": ScheduleSettings("constant")})
    before: dict[str, torch.Tensor] = {}

    class Noting(type(module)):  # type: ignore[misc]
        def on_train_start(self) -> None:
            before.update({n: p.detach().clone() for n, p in self.trainable().items()})
            super().on_train_start()

    module.__class__ = Noting
    run = trainer(tmp_path, max_epochs=1, precision=precision)
    run.fit(module, datamodule=data)
    trained = module.trainable()
    assert {p.dtype for p in trained.values()} == {torch.float32}
    moments = [v for state in run.optimizers[0].state.values() for k, v in state.items() if k != "step"]
    assert {m.dtype for m in moments} == {torch.float32}
    large = [n for n in trained if "lora_A" in n] if lora else [n for n in trained if "proj" in n]
    moved = [(trained[n] != before[n]).float().mean().item() for n in large]
    assert large
    assert sum(moved) / len(moved) > 0.5, moved
    base = {p.dtype for n, p in module.named_parameters() if not p.requires_grad and "layers" in n and "lora_" not in n}
    if lora:
        assert base == {torch.bfloat16 if precision.startswith("bf16") else torch.float16}


def test_scores_frequencies_and_sums_stay_float32(tiny: TinyRuns) -> None:
    module, _ = ppo(tiny, {"lora": LORA})
    module.configure_model()
    exact = {n: b.clone() for n, b in module.named_buffers() if n.endswith("inv_freq")}
    bias = module.roles.reward_head.bias.clone()
    module.to(torch.bfloat16)
    assert exact
    assert all(torch.equal(b, exact[n]) for n, b in module.named_buffers() if n in exact)
    assert torch.equal(module.roles.reward_head.bias, bias)

    module, _ = sft(tiny, {"lora": LORA})
    module.to(torch.bfloat16)
    module.val_nll.update(torch.tensor(1.0), torch.tensor(300_000.0))
    module.val_nll.update(torch.tensor(2.0), torch.tensor(1_000.0))
    assert float(module.val_nll.compute()) == pytest.approx(302_000 / 301_000, abs=1e-6)
    assert module.to(torch.float64).val_nll.dtype == torch.float64


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_without_adapters_16_bit_weights_are_refused(precision: str, tmp_path: Path, tiny: TinyRuns) -> None:
    for stage in (sft, reward, ppo):
        module, data = stage(tiny, {"lora": None})
        with pytest.raises(UserError, match=rf"trainer.precision is {precision}, .*lora null .* Take bf16-mixed"):
            trainer(tmp_path, precision=precision).fit(module, datamodule=data)


def test_precisions_of_the_base() -> None:
    assert base_dtype("32-true", None) == base_dtype("bf16-mixed", None) == torch.float32
    assert base_dtype("bf16-mixed", LORA) == base_dtype("bf16-true", LORA) == torch.bfloat16
    assert base_dtype("64-true", None) == torch.float64


def test_adapters_of_an_artefact_are_read_without_rounding(tiny: TinyRuns, tmp_path: Path) -> None:
    """Nor are they rounded on their way into the next stage's."""
    from safetensors.torch import load_file

    module, data = ppo(tiny, {"optimizer": OptimizerSettings(lr=0.0)})
    trainer(tmp_path, max_epochs=1, precision="bf16-true").fit(module, datamodule=data)
    name = "final/adapter_model.safetensors"
    before, after = load_file(tiny.root / "sft" / name), load_file(tmp_path / name)
    assert all(torch.equal(before[k], after[k]) for k in before)
    head = load_file(tiny.root / "reward" / "final" / "scalar_head.safetensors")
    assert torch.equal(module.roles.value_head.weight, head["weight"])
