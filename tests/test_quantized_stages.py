"""The three stages on a base in 4 or 8 bits: they train, resume, and leave adapters for a base in any precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.quantized import QuantizedLinear
from rlhf_lightning.ppo.module import PPOModule
from tests.conftest import TinyRuns
from tests.ppo.test_roles import ragged_rollout

pytest.importorskip("bitsandbytes", reason="needs the optional package bitsandbytes")

KEY = "--model.init_args.lora.base_bits"
WEIGHTS = "final/adapter_model.safetensors"


def metrics(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "final" / "stage.json").read_text())["metrics"]
    return found


@pytest.fixture(scope="module")
def sft(tiny: TinyRuns) -> Path:
    """Trained on 4 bits, with a checkpoint after each step."""
    return tiny.run("sft", "bits/sft", KEY, "4", "--config", "tests/resume/overlays/keep_all.yaml")


def test_training_lowers_the_loss(tiny: TinyRuns, sft: Path) -> None:
    untrained = tiny.run("sft", "bits/untrained", KEY, "4", "--model.init_args.optimizer.lr", "0")
    assert metrics(sft)["val/loss"] < metrics(untrained)["val/loss"] - 0.1


def test_the_adapter_is_that_of_any_base(tiny: TinyRuns, sft: Path) -> None:
    ours, plain = load_file(sft / WEIGHTS), load_file(tiny.root / "sft" / WEIGHTS)
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in plain.items()}
    one, two = (json.loads((run / "final" / "adapter_config.json").read_text()) for run in (sft, tiny.root / "sft"))
    one["target_modules"], two["target_modules"] = sorted(one["target_modules"]), sorted(two["target_modules"])
    assert one == two


@pytest.mark.parametrize("bits", [None, "4", "8"])
def test_later_stages_choose_for_themselves(tiny: TinyRuns, sft: Path, bits: str | None) -> None:
    short = ("--trainer.max_epochs", "1", *((KEY, bits) if bits else ()))
    reward = tiny.run("reward", f"bits/reward{bits}", "--model.init_args.init_from", str(sft), *short)
    sources = ("--model.init_args.policy_from", str(sft), "--model.init_args.reward_from", str(reward))
    ppo = tiny.run("ppo", f"bits/ppo{bits}", *sources, *short)
    before, after = load_file(sft / WEIGHTS), load_file(ppo / WEIGHTS)
    assert all(not torch.equal(before[k], after[k]) for k in before)
    assert all(value == value for value in (metrics(reward) | metrics(ppo)).values())


def test_full_weights_start_from_an_adapter_that_was_trained_on_4_bits(tiny: TinyRuns, sft: Path) -> None:
    extra = ("--model.init_args.base_model", str(sft), "--model.init_args.lora", "null", "--trainer.max_epochs", "1")
    assert (tiny.run("sft", "bits/full", *extra) / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_other_precisions(tiny: TinyRuns, precision: str) -> None:
    extra = (KEY, "8", "--trainer.precision", precision, "--trainer.max_epochs", "1")
    assert metrics(tiny.run("sft", f"bits/{precision}", *extra))["val/loss"] < 5.7


def test_a_resumed_run_ends_with_the_same_weights(tiny: TinyRuns, sft: Path) -> None:
    checkpoint = next((sft / "lightning").glob("epoch=0-step=3.ckpt"))
    resumed = tiny.run("sft", "bits/resumed", KEY, "4", "--ckpt_path", str(checkpoint))
    one, two = load_file(sft / WEIGHTS), load_file(resumed / WEIGHTS)
    assert all(torch.equal(one[k], two[k]) for k in one)
    held = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(".lora_" in name for name in held), "no codes: the base is quantized again when it is loaded"


@pytest.mark.parametrize("bits", ["8", None])
def test_a_checkpoint_on_another_base_is_refused(
    tiny: TinyRuns, sft: Path, bits: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf_lightning.cli import main

    checkpoint = next((sft / "lightning").glob("epoch=0-step=3.ckpt"))
    extra = ("--ckpt_path", str(checkpoint), *((KEY, bits) if bits else ()))
    assert main(tiny.args("sft", f"bits/changed{bits}", *extra)) == 1
    assert f"model.init_args.lora.base_bits: 4 -> {bits}" in capsys.readouterr().err


def test_vllm_is_refused(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    from rlhf_lightning.cli import main

    assert main(tiny.args("ppo", "bits/vllm", KEY, "4", "--model.init_args.sampling.engine", "vllm")) == 1
    assert "sampling.engine: vllm" in (error := capsys.readouterr().err)
    assert "set model.init_args.lora.base_bits to null" in error


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("bits", ["4", "8"])
def test_rollouts_sample_from_the_policy_that_is_scored(tiny: TinyRuns, sft: Path, bits: str, engine: str) -> None:
    extra = ("--trainer.max_epochs", "1", KEY, bits, "--model.init_args.sampling.engine", engine)
    found = metrics(tiny.run("ppo", f"bits/{engine}{bits}", *extra, "--model.init_args.policy_from", str(sft)))
    assert found["rollout/mismatch_ratio_max"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_policy_starts_as_the_reference_on_one_base(tiny: TinyRuns, bits: Any) -> None:
    lora = LoraSettings(base_bits=bits)
    ppo = PPOModule(str(tiny.root / "sft"), str(tiny.root / "reward"), lora=lora)
    ppo.configure_model()
    ppo.eval()
    assert len({id(ppo.roles.backbone(r)) for r in ("policy", "reference", "reward", "value")}) == 1
    assert any(isinstance(m, QuantizedLinear) for m in ppo.modules())
    with torch.no_grad():
        policy, _ = ppo.roles.logprobs("policy", ragged_rollout(), 1.0)
        reference, _ = ppo.roles.logprobs("reference", ragged_rollout(), 1.0)
        with ppo.roles.backbone("policy").merged("policy"):
            ids = torch.tensor([[5, 6, 7, 8, 20, 21, 2]])
            logits = ppo.roles.backbone("policy").lm(input_ids=ids).logits[0].double()
    assert torch.equal(policy, reference)
    sampled_from = torch.log_softmax(logits, -1)[[3, 4, 5], [20, 21, 2]]
    assert torch.allclose(policy[0, :3].double(), sampled_from, atol=1e-5)
