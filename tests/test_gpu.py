"""The three tiny stages on a GPU, in every precision of it."""

from __future__ import annotations

import json

import pytest

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
