"""PPO end to end on the tiny model: what must hold in every iteration, and what the loop must not touch."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from rlhf_lightning.cli import main
from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.buffer import MicroBatch
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.rollout_metrics import mismatch_metrics
from rlhf_lightning.ppo.scoring import ScoredRollout
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from tests.conftest import TinyRuns


def module(tiny: TinyRuns, cls: type[PPOModule] = PPOModule, **overrides: Any) -> PPOModule:
    settings: dict[str, Any] = {
        "optimizer": OptimizerSettings(lr=1e-2),
        "schedule": ScheduleSettings("constant"),
        "sampling": SamplingSettings(max_response_tokens=10),
        "num_minibatches": 2,
        "seed": 3,
    }
    return cls(str(tiny.root / "sft"), str(tiny.root / "reward"), **(settings | overrides))


def data(batch_size: int = 8) -> PromptDataModule:
    return PromptDataModule("configs/tiny/data/prompts.jsonl", batch_size=batch_size, max_prompt_tokens=128)


def trainer(root: Path, **overrides: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": root,
    }
    return L.Trainer(**(settings | overrides))


class Watching(PPOModule):
    """Notes the ratio of every minibatch and the reference's log-probabilities."""

    def training_step(self, batch: MicroBatch, batch_idx: int) -> torch.Tensor:
        data, mask = batch.experience, batch.experience.rollout.response_mask
        with torch.no_grad():
            new, _ = self.roles.logprobs("policy", data.rollout, 1.0)
        ratio = torch.exp(new - data.logprobs)[mask]
        self.__dict__.setdefault("ratios", []).append((batch_idx, (ratio - 1).abs().max().item()))
        return super().training_step(batch, batch_idx)


def test_first_minibatch_of_every_iteration_has_ratio_one(tiny: TinyRuns, tmp_path: Path) -> None:
    watching: Any = module(tiny, Watching)
    trainer(tmp_path).fit(watching, datamodule=data())
    first = [r for i, r in watching.ratios if i == 0]
    assert len(first) == 3
    assert max(first) < 1e-5
    # ... and the second does not, or the update would have done nothing.
    assert min(r for i, r in watching.ratios if i == 1) > 1e-4


def test_reference_is_the_sft_model_and_stays_so(tiny: TinyRuns, tmp_path: Path) -> None:
    """Equal to the SFT artefact opened by plain PEFT, bit for bit, before and after training."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from rlhf_lightning.artefacts import read_info

    ppo = module(tiny)
    ppo.configure_model()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 200, (4, 9), generator=generator)
    mask = torch.ones(4, 9, dtype=torch.bool)

    final = tiny.root / "sft" / "final"
    base = AutoModelForCausalLM.from_pretrained(read_info(final, "").base_model)
    sft = PeftModel.from_pretrained(base, str(final)).eval()
    with torch.no_grad():
        expected = sft(input_ids=ids, attention_mask=mask).logits

    def reference_logits() -> torch.Tensor:
        backbone = ppo.roles.backbone("reference")
        with torch.no_grad(), backbone.using(ppo.roles.adapter("reference")):
            return backbone.unembed(backbone.hidden(ids, mask))

    assert torch.equal(reference_logits(), expected)
    frozen = {n: p.clone() for n, p in ppo.named_parameters() if not p.requires_grad}
    trained = {n: p.clone() for n, p in ppo.trainable().items()}
    trainer(tmp_path).fit(ppo, datamodule=data())
    assert torch.equal(reference_logits(), expected)
    assert all(torch.equal(p, frozen[n]) for n, p in ppo.named_parameters() if n in frozen)
    changed = {n for n, p in ppo.named_parameters() if n in trained and not torch.equal(p, trained[n])}
    assert {n for n in trained if "lora_B" in n or "value_head" in n} <= changed


def test_policy_and_value_have_their_own_learning_rates(tiny: TinyRuns, tmp_path: Path) -> None:
    ppo = module(tiny, value_lr=0.0)
    ppo.configure_model()
    before = copy.deepcopy(ppo.trainable())
    trainer(tmp_path, max_epochs=1).fit(ppo, datamodule=data())
    for name, parameter in ppo.trainable().items():
        is_policy = ".policy." in name
        assert torch.equal(parameter, before[name]) != is_policy, name


def test_all_four_roles_share_one_base(tiny: TinyRuns) -> None:
    ppo = module(tiny)
    ppo.configure_model()
    assert len({id(ppo.roles.backbone(r)) for r in ("policy", "reference", "reward", "value")}) == 1
    embeddings = [n for n, _ in ppo.named_parameters() if "embed_tokens" in n]
    assert len(embeddings) == 1


def test_value_starts_at_the_reward_models_score(tiny: TinyRuns, tmp_path: Path) -> None:
    """At the last token the value function sees what the reward model saw one token before."""
    ppo = module(tiny)
    ppo.configure_model()
    assert torch.equal(ppo.roles.value_head.bias, ppo.roles.reward_head.bias)
    assert ppo.roles.value_head.bias != 0
    backbone = ppo.roles.backbone("value")
    value, reward = backbone.adapter_state("value"), backbone.adapter_state("reward")
    assert all(torch.equal(value[k], reward[k]) for k in value)


def test_accumulation_gives_the_weights_of_one_big_minibatch(tiny: TinyRuns, tmp_path: Path) -> None:
    """float32 sums in another order: 1e-5 relative to updates of about 1e-2."""
    ends = []
    for parts in (1, 2, 4):
        ppo = module(tiny)
        trainer(tmp_path / str(parts), max_epochs=1, accumulate_grad_batches=parts).fit(ppo, datamodule=data())
        ends.append({n: p.detach().clone() for n, p in ppo.trainable().items()})
    for other in ends[1:]:
        for name, parameter in ends[0].items():
            assert torch.allclose(parameter, other[name], atol=2e-4), name


@pytest.mark.parametrize("lora", [True, False])
def test_full_fine_tuning_trains_policy_and_value_copies(tiny: TinyRuns, tmp_path: Path, lora: bool) -> None:
    ppo = module(tiny, **({} if lora else {"lora": None, "optimizer": OptimizerSettings(lr=1e-3)}))
    trainer(tmp_path, max_epochs=1).fit(ppo, datamodule=data())
    names = ppo.trainable()
    assert any("lora_" in n for n in names) == lora
    assert any("embed_tokens" in n for n in names) != lora
    written = {p.name for p in (tmp_path / "final").iterdir()}
    assert ("adapter_model.safetensors" if lora else "model.safetensors") in written


def test_adapters_on_a_fully_fine_tuned_sft_model(tiny: TinyRuns) -> None:
    """The SFT model itself is then the base, and with adapters off the reference."""
    tiny.run("sft", "full/sft", "--model.init_args.lora", "null", "--trainer.max_epochs", "1")
    full = str(tiny.root / "full" / "sft")
    extra = ("--model.init_args.init_from", full, "--trainer.max_epochs", "1")
    reward = tiny.run("reward", "full/reward", *extra)
    ppo = PPOModule(full, str(reward), num_minibatches=2)
    ppo.configure_model()
    assert ppo.roles.adapter("reference") is None
    assert ppo.roles.backbone("reference") is ppo.roles.backbone("value")
    sources = ("--model.init_args.policy_from", full, "--model.init_args.reward_from", str(reward))
    run = tiny.run("ppo", "full/ppo", *sources, "--trainer.max_epochs", "1")
    assert (run / "final" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_precision_reaches_rollout_and_scoring(tiny: TinyRuns, tmp_path: Path, precision: str) -> None:
    seen: dict[str, Any] = {}

    class Probing(PPOModule):
        def score(self, *args: Any, **kwargs: Any) -> Any:
            seen["scoring"] = torch.is_autocast_enabled("cpu")
            return super().score(*args, **kwargs)

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            seen["rollout"] = torch.is_autocast_enabled("cpu")
            seen["base"] = self.roles.backbone("policy").lm.dtype
            return super().sample(*args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            seen["update"] = torch.is_autocast_enabled("cpu")
            return super().training_step(*args, **kwargs)

    trainer(tmp_path, max_epochs=1, precision=precision).fit(module(tiny, Probing), datamodule=data())
    mixed = precision == "bf16-mixed"
    assert seen == {
        "rollout": mixed,
        "scoring": mixed,
        "update": mixed,
        "base": torch.float32 if precision == "32-true" else torch.bfloat16,
    }


def test_metrics_and_sample_table_reach_tensorboard(tiny: TinyRuns) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tiny.root / "ppo" / "tensorboard"))
    events.Reload()
    expected = {f"rollout/{k}" for k in ("score_mean", "score_std", "kl", "response_tokens", "eos_rate", "entropy")}
    expected |= {"rollout/mismatch_kl", "rollout/mismatch_ratio_max"}
    expected |= {"policy/loss", "policy/approx_kl", "policy/clip_frac", "policy/ratio_max", "value/loss"}
    expected |= {"value/explained_variance", "time/rollout_s", "time/scoring_s", "time/update_s"}
    expected |= {"time/tokens_per_s", "kl_coef", "lr/policy", "lr/value"}
    assert expected <= set(events.Tags()["scalars"])
    assert len(events.Scalars("rollout/score_mean")) == 3
    table = events.Tensors("val/samples/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.startswith("| prompt | response | score | kl | length |")


def test_a_resumed_run_ends_with_the_same_weights(tiny: TinyRuns) -> None:
    from safetensors.torch import load_file

    tiny.run("ppo", "ppo_cut", "--trainer.max_epochs", "1")
    (tiny.root / "ppo_cut" / "final").rename(tiny.root / "ppo_cut" / "unfinished")
    tiny.run("ppo", "ppo_cut", "--ckpt_path", "last")
    name = "final/adapter_model.safetensors"
    whole, cut = load_file(tiny.root / "ppo" / name), load_file(tiny.root / "ppo_cut" / name)
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_an_impossible_split_is_named_before_training(tiny: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.init_args\.batch_size = 8 .* 16 minibatches"):
        trainer(tmp_path).fit(module(tiny, num_minibatches=16), datamodule=data())


def test_limiting_train_batches_is_refused(tiny: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"limit_train_batches"):
        trainer(tmp_path, limit_train_batches=1).fit(module(tiny), datamodule=data())


def test_fast_dev_run_writes_nothing(tiny: TinyRuns) -> None:
    assert main(tiny.args("ppo", "ppo_dev", "--trainer.fast_dev_run", "true")) == 0
    assert not (tiny.root / "ppo_dev" / "final").exists()


class CutAfter(L.Callback):
    """Ends a run after a number of minibatches, as a crash would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise RuntimeError("cut")


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_a_run_cut_within_or_between_iterations_ends_with_the_same_weights(
    tiny: TinyRuns, tmp_path: Path, steps: int
) -> None:
    """Four minibatches an iteration; a checkpoint after every step that is not an iteration's last, and at its end."""

    def fit(root: Path, *callbacks: L.Callback, ckpt_path: str | None = None) -> PPOModule:
        saving = [
            ModelCheckpoint(root / "steps", save_last=True, every_n_train_steps=1),
            ModelCheckpoint(root / "ends", save_last=True, save_on_train_epoch_end=True),
        ]
        ppo = module(tiny, num_minibatches=4)
        settings: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [*saving, *callbacks], "max_epochs": 2}
        trainer(root, **settings).fit(ppo, datamodule=data(), ckpt_path=ckpt_path)
        return ppo

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="cut"):
        fit(tmp_path / "cut", CutAfter(steps))
    folder = "ends" if steps % 4 == 0 else "steps"
    resumed = fit(tmp_path / "cut", ckpt_path=str(tmp_path / "cut" / folder / "last.ckpt"))
    assert resumed.trainer.global_step == whole.trainer.global_step == 8
    expected = whole.trainable()
    assert all(torch.equal(p, expected[n]) for n, p in resumed.trainable().items())


def test_mismatch_compares_the_sampler_with_the_trained_policy() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    nothing = torch.zeros(2, 2)
    sampler, trained = torch.tensor([[-1.0, -2.0], [-0.5, 9.0]]), torch.tensor([[-1.0, -1.5], [-0.8, 0.0]])
    rollout = Rollout(mask.long(), mask, mask.long(), mask, mask[:, 0], sampler)
    scored = ScoredRollout(trained, nothing, nothing, nothing[:, 0], nothing)
    metrics = mismatch_metrics(rollout, scored)
    assert metrics["rollout/mismatch_kl"] == pytest.approx((0 - 0.5 + 0.3) / 3)
    assert metrics["rollout/mismatch_ratio_max"] == pytest.approx(math.exp(0.5))


def test_another_engine_trains_too(tiny: TinyRuns, tmp_path: Path) -> None:
    ppo = module(tiny, sampling=SamplingSettings(max_response_tokens=10, engine="transformers"))
    trainer(tmp_path, max_epochs=1).fit(ppo, datamodule=data())
    assert abs(ppo.ppo_loop.metrics["rollout/mismatch_kl"]) < 1e-5
