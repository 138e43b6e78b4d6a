"""Selection by the reward model's score: what cannot work is refused before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.bad_inputs.refusal import Refusal
from tests.conftest import TinyRuns

KEY = "model.init_args.select"
REWARD = f"--{KEY}.reward_from"
WATCH = '[{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"monitor": "val/rm_score"}}]'


@pytest.fixture
def reward(tiny: TinyRuns) -> tuple[str, str]:
    return REWARD, str(tiny.root / "reward")


def test_no_reward_model(refused: Refusal) -> None:
    refused(
        "sft", f"--{KEY}.keep", "best", parts=[f"{KEY}.reward_from is missing", "val/rm_score", f"{KEY}.by to loss"]
    )
    refused("sft", f"--{KEY}", "{by: loss, prompts: p.jsonl}", parts=[f"{KEY}.prompts", "Give both"])
    refused("sft", REWARD, "nowhere", parts=[f"{KEY}.reward_from: 'nowhere' is not a reward model", "Train that stage"])


def test_another_stages_artefact(refused: Refusal, tiny: TinyRuns) -> None:
    parts = [f"{KEY}.reward_from", "is a supervised (SFT) model, but a reward model"]
    refused("sft", REWARD, str(tiny.root / "sft"), parts=parts)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("num_prompts", "1", "must be at least 2"),
        ("max_response_tokens", "0", "must be at least 1"),
        ("temperature", "-1", "must be at least 0"),
        ("batch_size", "0", "must be at least 1"),
        ("by", "score", "rm_score"),
        ("keep", "first", "best"),
    ],
)
def test_number(refused: Refusal, reward: Any, name: str, value: str, said: str) -> None:
    refused("sft", *reward, f"--{KEY}.{name}", value, parts=[name, said])


def test_monitor_without_the_setting(refused: Refusal) -> None:
    parts = ["trainer.callbacks: ModelCheckpoint monitors 'val/rm_score'", f"Set {KEY}.reward_from", "'val/loss'"]
    refused("sft", "--trainer.callbacks", WATCH, parts=parts)


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (("--data.init_args.val", "null"), ["there are none", "set data.init_args.val"]),
        (("--trainer.limit_val_batches", "0"), ["trainer.limit_val_batches is 0"]),
        (("--trainer.check_val_every_n_epoch", "3"), ["check_val_every_n_epoch = 3", "none in 2 epochs"]),
    ],
)
def test_no_validation(refused: Refusal, reward: Any, extra: Any, parts: list[str]) -> None:
    refused("sft", *reward, *extra, parts=[KEY, *parts])


def test_prompts(refused: Refusal, reward: Any, jsonl: Callable[..., str]) -> None:
    """The tiny model's context is 512 tokens, one a byte."""
    broken = jsonl([{"prompt": "Why?"}, {"prompt": ""}], "broken.jsonl")
    refused("sft", *reward, f"--{KEY}.prompts", broken, parts=[f"{KEY}.prompts", "line 2", "`prompt` is empty"])
    refused("sft", *reward, f"--{KEY}.prompts", "none.jsonl", parts=[f"{KEY}.prompts", "none.jsonl"])
    single = jsonl([{"prompt": "Why?"}], "single.jsonl")
    refused("sft", *reward, f"--{KEY}.prompts", single, parts=[f"{KEY}.prompts", "2 prompts or more"])
    long = jsonl([{"prompt": "Why?"}, {"prompt": "Why? " * 30}], "long.jsonl")
    parts = [f"{long}:2", "data.init_args.max_prompt_tokens = 128"]
    refused("sft", *reward, f"--{KEY}.prompts", long, parts=parts)
    parts = [f"{KEY}.max_response_tokens", "context length is 512", "500 of them to be sampled"]
    refused("sft", *reward, f"--{KEY}.max_response_tokens", "500", parts=parts)
