"""What must not change a PPO iteration: splitting, padding and what stands in it, batch sizes of its phases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.ppo.buffer import Experience, UpdatePlan
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptBatch, PromptDataModule
from rlhf_lightning.rollouts.settings import SamplingSettings
from tests.conftest import TinyRuns
from tests.invariance.updates import EXACT, REORDERED, SETTINGS, Weights, distance, train

SAMPLING = SamplingSettings(max_response_tokens=10)


class Tampered(PPOModule):
    """Changes prompts before a rollout, or experience after it."""

    prompts: Any = staticmethod(lambda batch: batch)
    experience: Any = staticmethod(lambda experience: experience)

    def collect(self, batch: PromptBatch, *args: Any) -> Any:
        experience, metrics = super().collect(type(self).prompts(batch), *args)
        return type(self).experience(experience), metrics


def more_padding(batch: PromptBatch) -> PromptBatch:
    ids, mask = (torch.nn.functional.pad(x, (7, 0)) for x in (batch.prompt_ids, batch.prompt_mask))
    return PromptBatch(ids, mask, batch.texts, batch.rows)


def other_padding(batch: PromptBatch) -> PromptBatch:
    noise = torch.randint_like(batch.prompt_ids, 3, 200)
    return PromptBatch(
        torch.where(batch.prompt_mask, batch.prompt_ids, noise), batch.prompt_mask, batch.texts, batch.rows
    )


def cut(experience: Experience) -> Experience:
    """Responses of different lengths: the tiny model hardly ever writes EOS."""
    mask = experience.rollout.response_mask
    lengths = 1 + torch.arange(len(mask)) % mask.shape[1]
    mask = mask & (torch.arange(mask.shape[1]) < lengths.unsqueeze(1))
    numbers = (getattr(experience, name) for name in ("logprobs", "values", "advantages", "returns"))
    rollout = replace(experience.rollout, response_mask=mask)
    return Experience(rollout, *(torch.where(mask, x, 0.0) for x in numbers))


def poisoned(value: float) -> Any:
    """Every padded slot of what the update reads, floats and tokens."""

    def poison(experience: Experience) -> Experience:
        experience = cut(experience)
        mask, rollout = experience.rollout.response_mask, experience.rollout
        assert not mask.all()

        def filled(x: Tensor) -> Tensor:
            return torch.where(mask, x, value)

        return Experience(
            replace(rollout, response_ids=torch.where(mask, rollout.response_ids, 77)),
            *(filled(getattr(experience, name)) for name in ("logprobs", "values", "advantages", "returns")),
        )

    return poison


def run(tiny: TinyRuns, root: Path, settings: dict[str, Any], tamper: dict[str, Any], **trainer: Any) -> Any:
    cls = type("Tampered", (Tampered,), {name: staticmethod(f) for name, f in tamper.items()})
    start = (str(tiny.root / "sft"), str(tiny.root / "reward"))
    module = cls(*start, **(SETTINGS | {"sampling": SAMPLING, "num_minibatches": 2, "kl_coef": 0.1} | settings))
    data = PromptDataModule("configs/tiny/data/prompts.jsonl", batch_size=16, max_prompt_tokens=128, seed=5)
    return train(root, module, data, **trainer)


@pytest.fixture(scope="module")
def plain(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Weights]:
    weights: tuple[Weights, Weights] = run(tiny, tmp_path_factory.mktemp("ppo"), {}, {})
    return weights


VARIATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], float]] = {
    "again": ({}, {}, {}, EXACT),
    "two micro-batches": ({}, {}, {"accumulate_grad_batches": 2}, REORDERED),
    "eight micro-batches": ({}, {}, {"accumulate_grad_batches": 8}, REORDERED),
    "one response a forward": ({"memory": MemorySettings(1)}, {}, {}, REORDERED),
    "a few responses a forward": ({"memory": MemorySettings(60)}, {}, {}, REORDERED),
    "gradient checkpointing": ({"memory": MemorySettings(gradient_checkpointing=True)}, {}, {}, REORDERED),
    "decoding three by three": ({"sampling": replace(SAMPLING, batch_size=3)}, {}, {}, REORDERED),
    "more padding on the left": ({}, {"prompts": more_padding}, {}, REORDERED),
    "other padding tokens": ({}, {"prompts": other_padding}, {}, EXACT),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_an_iteration_does_not_depend_on(
    name: str, tiny: TinyRuns, plain: tuple[Weights, Weights], tmp_path: Path
) -> None:
    settings, tamper, trainer, tolerance = VARIATIONS[name]
    assert distance(plain, run(tiny, tmp_path, settings, tamper, **trainer)) <= tolerance


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nor_on_what_stands_in_padded_slots(tiny: TinyRuns, tmp_path: Path, value: float) -> None:
    whole = run(tiny, tmp_path / "whole", {}, {"experience": cut})
    assert distance(whole, run(tiny, tmp_path, {}, {"experience": poisoned(value)})) == EXACT


def test_nor_on_the_order_of_rows_within_a_minibatch(
    tiny: TinyRuns, plain: tuple[Weights, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minibatches = UpdatePlan.minibatches
    monkeypatch.setattr(UpdatePlan, "minibatches", lambda *args: [m.flip(0) for m in minibatches(*args)])
    assert distance(plain, run(tiny, tmp_path, {}, {})) <= REORDERED


@pytest.mark.parametrize("change", [{"kl_coef": 0.5}, {"missing_eos_penalty": 1.1}, {"gae_lambda": 0.9}])
def test_but_on_its_settings(
    tiny: TinyRuns, plain: tuple[Weights, Weights], tmp_path: Path, change: dict[str, float]
) -> None:
    assert distance(plain, run(tiny, tmp_path, change, {})) > 10 * REORDERED
