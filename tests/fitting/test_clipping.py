"""Gradients are clipped in every precision of a CPU, with the fused optimizer too."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from tests.ppo.test_ppo_run import trainer


class GradientNorm(Callback):
    """Notes the norm of the gradient that the optimizer is given."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:  # type: ignore[no-untyped-def]
        grads = [p.grad for p in pl_module.trainable().values() if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(grads)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_gradients_are_clipped(tmp_path, precision: str) -> None:  # type: ignore[no-untyped-def]
    seen = GradientNorm()
    data = DemonstrationDataModule("configs/tiny/data/demonstrations.jsonl", batch_size=4, max_prompt_tokens=128)
    fit = trainer(tmp_path, max_steps=2, precision=precision, gradient_clip_val=1e-3, callbacks=[seen])
    fit.fit(SFTModule("embedded:tiny"), datamodule=data)
    assert all(0 < norm < 1.01e-3 for norm in seen.norms), seen.norms
    assert len(seen.norms) == 2
