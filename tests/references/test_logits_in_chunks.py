"""No tensor over the vocabulary has more rows than a chunk, whatever the batch: neither in SFT nor in PPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhf_lightning import logprobs
from rlhf_lightning.models.tiny import tokenizer
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.stage import StageModule
from tests.conftest import TinyRuns
from tests.invariance.updates import SETTINGS, train

CHUNK = 7


class Widest(TorchDispatchMode):
    """Rows of the largest tensor with a last dimension of V that any operation makes, weights left out."""

    def __init__(self, module: StageModule) -> None:
        super().__init__()
        self.width, self.hidden = next(p.shape for n, p in module.named_parameters() if "embed_tokens" in n)
        self.rows, self.watching = 0, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            # [H, V] is the transposed unembedding, or its gradient.
            wide = isinstance(x, torch.Tensor) and x.ndim and x.shape[-1] == self.width
            if wide and self.watching and x.shape != (self.hidden, self.width):
                self.rows = max(self.rows, x.numel() // self.width)
        return out


class Sampling(PPOModule):
    """Decoding computes logits of its whole batch, of one token each."""

    widest: Widest

    def sample(self, *args: Any, **kwargs: Any) -> Rollout:
        self.widest.watching = False
        rollout = super().sample(*args, **kwargs)
        self.widest.watching = True
        return rollout


def sft(tiny: TinyRuns, **settings: Any) -> Any:
    rows = "configs/tiny/data/demonstrations.jsonl"
    made = SFTModule("embedded:tiny", **(SETTINGS | settings))
    return made, DemonstrationDataModule(rows, val=rows, batch_size=8, max_prompt_tokens=128)


def ppo(tiny: TinyRuns, **settings: Any) -> Any:
    rows = "configs/tiny/data/prompts.jsonl"
    settings = {"sampling": SamplingSettings(10), "num_minibatches": 2} | SETTINGS | settings
    made = Sampling(str(tiny.root / "sft"), str(tiny.root / "reward"), **settings)
    return made, PromptDataModule(rows, val=rows, batch_size=8, max_prompt_tokens=128)


@pytest.mark.parametrize("make", [sft, ppo])
@pytest.mark.parametrize("settings", [{}, {"lora": None}])
def test_no_more_logits_than_a_chunk_are_alive(
    make: Any, settings: dict[str, Any], tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "chunk_rows", lambda device: CHUNK)
    module, data = make(tiny, **settings)
    module.configure_model()
    assert len(tokenizer()) == Widest(module).width
    module.widest = Widest(module)
    with module.widest:
        train(tmp_path, module, data, max_epochs=1)
    assert module.widest.rows == CHUNK
