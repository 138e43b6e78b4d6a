"""Numbers out of range: refused with their full key and the range."""

from __future__ import annotations

import pytest

from tests.bad_inputs.refusal import Refusal

AT_LEAST_0, AT_LEAST_1, ABOVE_0 = "must be at least 0", "must be at least 1", "must be above 0"

MODEL: list[tuple[str, str, str, str]] = [
    ("sft", "optimizer.lr", "-0.001", AT_LEAST_0),
    ("sft", "optimizer.lr", ".nan", "is nan"),
    ("sft", "optimizer.lr", ".inf", "is inf"),
    ("reward", "optimizer.lr", "-1", AT_LEAST_0),
    ("ppo", "optimizer.lr", "-1", AT_LEAST_0),
    ("sft", "optimizer.beta1", "1.0", "at least 0 and below 1"),
    ("sft", "optimizer.beta2", "-0.5", "at least 0 and below 1"),
    ("sft", "optimizer.eps", "0", ABOVE_0),
    ("sft", "optimizer.weight_decay", "-0.1", AT_LEAST_0),
    ("sft", "schedule.warmup", "-1", AT_LEAST_0),
    ("sft", "schedule.warmup_start", "1.5", "at least 0 and at most 1"),
    ("reward", "schedule.final", "-0.1", "at least 0 and at most 1"),
    ("sft", "lora.rank", "0", AT_LEAST_1),
    ("sft", "lora.alpha", "0", ABOVE_0),
    ("sft", "lora.dropout", "1.0", "at least 0 and below 1"),
    ("ppo", "lora.rank", "-4", AT_LEAST_1),
    ("ppo", "value_lr", "-1", AT_LEAST_0),
    ("ppo", "sampling.max_response_tokens", "0", AT_LEAST_1),
    ("ppo", "sampling.temperature", "-0.1", AT_LEAST_0),
    ("ppo", "sampling.batch_size", "0", AT_LEAST_1),
    ("ppo", "num_minibatches", "0", AT_LEAST_1),
    ("ppo", "ppo_epochs", "0", AT_LEAST_1),
    ("ppo", "kl_coef", "-0.02", AT_LEAST_0),
    ("ppo", "kl_coef", ".nan", "is nan"),
    ("ppo", "clip_range", "0", ABOVE_0),
    ("ppo", "clip_range", "-0.2", ABOVE_0),
    ("ppo", "value_clip_range", "0", ABOVE_0),
    ("ppo", "value_coef", "-1", AT_LEAST_0),
    ("ppo", "gamma", "1.01", "at least 0 and at most 1"),
    ("ppo", "gae_lambda", "1.5", "at least 0 and at most 1"),
    ("ppo", "missing_eos_penalty", "-1", AT_LEAST_0),
    ("ppo", "sampling.min_response_tokens", "-1", "at least 0 and at most 12"),
    ("ppo", "sampling.min_response_tokens", "13", "at least 0 and at most 12"),
    ("ppo", "ending.missing_eos_score", ".nan", "must be a finite number"),
    ("ppo", "ending.truncate_after", "-1", AT_LEAST_0),
    ("ppo", "kl.target", "0", ABOVE_0),
    ("ppo", "kl.horizon", "0", ABOVE_0),
    ("ppo", "kl.stop_update", "0", ABOVE_0),
    ("ppo", "kl.stop_update", "-0.1", ABOVE_0),
    ("ppo", "kl.budget", "0", ABOVE_0),
    ("ppo", "kl.budget", ".inf", "is inf"),
    ("ppo", "ema.decay", "1", "at least 0 and below 1"),
    ("ppo", "ema.decay", "-0.1", "at least 0 and below 1"),
    ("ppo", "memory.micro_batch_tokens", "0", AT_LEAST_1),
]
DATA: list[tuple[str, str, str, str]] = [
    ("sft", "batch_size", "0", AT_LEAST_1),
    ("reward", "batch_size", "-4", AT_LEAST_1),
    ("ppo", "batch_size", "0", AT_LEAST_1),
    ("sft", "val_batch_size", "0", AT_LEAST_1),
    ("ppo", "val_batch_size", "-1", AT_LEAST_1),
    ("sft", "max_prompt_tokens", "0", AT_LEAST_1),
    ("ppo", "max_prompt_tokens", "-5", AT_LEAST_1),
    ("reward", "max_response_tokens", "0", AT_LEAST_1),
    ("sft", "limit", "0", AT_LEAST_1),
    ("sft", "num_workers", "-1", AT_LEAST_0),
]


@pytest.mark.parametrize(("stage", "name", "value", "wanted"), MODEL, ids=lambda v: str(v)[:24])
def test_model_number(refused: Refusal, stage: str, name: str, value: str, wanted: str) -> None:
    refused(stage, f"--model.init_args.{name}", value, parts=[f"model.init_args.{name} is ", wanted])


@pytest.mark.parametrize(("stage", "name", "value", "wanted"), DATA, ids=lambda v: str(v)[:24])
def test_data_number(refused: Refusal, stage: str, name: str, value: str, wanted: str) -> None:
    refused(stage, f"--data.init_args.{name}", value, parts=[f"data.init_args.{name} is {value}", wanted])


def test_a_rollout_that_cannot_be_split(refused: Refusal) -> None:
    parts = ["data.init_args.batch_size = 2", "4 minibatches (model.init_args.num_minibatches)", "large enough"]
    refused("ppo", "--data.init_args.batch_size", "2", parts=parts)


@pytest.mark.parametrize("value", ["0.0", "0"])
def test_zero_is_a_learning_rate(value: str) -> None:
    """It measures the model as it is; nothing below zero does."""
    from rlhf_lightning.schedule import OptimizerSettings

    assert OptimizerSettings(lr=float(value)).lr == 0
