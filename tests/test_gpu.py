"""The three tiny stages on a GPU, in every precision of it."""

from __future__ import annotations

import json

import pytest
import torch

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.ragged import from_prompts
from rlhf_lightning.models.sources import resolve
from tests.conftest import TinyRuns


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "16-mixed"])
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_stage_on_gpu(tiny: TinyRuns, stage: str, precision: str) -> None:
    extra = ("--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", precision)
    run = tiny.run(stage, f"gpu/{precision}/{stage}", *extra)
    metrics = json.loads((run / "final" / "stage.json").read_text())["metrics"]
    assert all(value == value for value in metrics.values())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("bits", ["4", "8"])
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_stage_on_gpu_with_a_quantized_base(tiny: TinyRuns, stage: str, bits: str, precision: str) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the optional package bitsandbytes")
    extra = ("--trainer.accelerator", "gpu", "--trainer.devices", "1", "--trainer.precision", precision)
    run = tiny.run(stage, f"gpu/{bits}/{precision}/{stage}", *extra, "--model.init_args.lora.base_bits", bits)
    metrics = json.loads((run / "final" / "stage.json").read_text())["metrics"]
    assert all(value == value for value in metrics.values())


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_forwards_without_padding_are_those_of_the_cpu(checkpointing: bool) -> None:
    """Prompts that responses share, float32; sums in another order: 1e-5 of a tensor's largest number."""
    backbone = Backbone(load_causal_lm(resolve("embedded:tiny")))
    backbone.add_adapter("a", LoraSettings(rank=4).peft_config(), trainable=True)
    backbone.gradient_checkpointing = checkpointing
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 200, (6, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([9, 4, 1, 9, 3, 6]).unsqueeze(1)
    prompt = torch.tensor([0, 0, 1, 1, 1, 1])

    def outcome(device: str) -> list[torch.Tensor]:
        backbone.to(device).zero_grad()
        batch = from_prompts(*(x.to(device) for x in (ids[:2], mask[:2].flip(1), ids, mask, prompt)))
        with backbone.using("a"):
            hidden = backbone.hidden_ragged(batch)
        hidden.sin().sum().backward()
        return [x.detach().cpu() for x in (hidden, *(p.grad for p in backbone.parameters() if p.grad is not None))]

    for ours, theirs in zip(outcome("cuda"), outcome("cpu"), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_stage_resumes_on_gpu(tiny: TinyRuns, stage: str) -> None:
    """From a checkpoint within an epoch. Equal weights: the same sums in the same order, on one device."""
    from safetensors.torch import load_file

    extra = (
        "--config",
        "tests/resume/overlays/keep_all.yaml",
        "--trainer.accelerator",
        "gpu",
        "--trainer.devices",
        "1",
    )
    whole = tiny.run(stage, f"gpu/whole/{stage}", *extra)
    checkpoint = next((whole / "lightning").glob("epoch=0-step=3.ckpt"))
    resumed = tiny.run(stage, f"gpu/resumed/{stage}", *extra, "--ckpt_path", str(checkpoint))
    name = "final/adapter_model.safetensors"
    one, two = load_file(whole / name), load_file(resumed / name)
    assert all(one[k].equal(two[k]) for k in one)
