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
