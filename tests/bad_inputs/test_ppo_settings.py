"""Settings of PPO's KL penalty, of endings and of the weight average that do not exist or do not go together."""

from __future__ import annotations

import pytest

from tests.bad_inputs.refusal import Refusal

M = "--model.init_args."
TOGETHER: dict[str, tuple[list[str], list[str]]] = {
    "k1 in the loss": ([f"{M}kl.place", "loss"], ["model.init_args.kl.estimator", "zero in expectation", "k2"]),
    "nothing to adapt": ([f"{M}kl.target", "6", f"{M}kl_coef", "0"], ["model.init_args.kl.target", "kl_coef above 0"]),
    "a horizon of less than an iteration": (
        [f"{M}kl.target", "6", f"{M}kl.horizon", "3"],
        ["model.init_args.kl.horizon is 3", "16 responses", "above 3.2"],
    ),
    "a budget on no validation": (
        [f"{M}kl.budget", "6", f"{M}kl.budget_on", "validation", "--data.init_args.val", "null"],
        ["model.init_args.kl.budget_on", "data.init_args.val"],
    ),
    "a budget on a validation that is switched off": (
        [f"{M}kl.budget", "6", f"{M}kl.budget_on", "validation", "--trainer.limit_val_batches", "0"],
        ["model.init_args.kl.budget_on", "trainer.limit_val_batches"],
    ),
    "truncation at a word of several tokens": (
        [f"{M}ending.truncate_at", "unthinkable"],
        ["model.init_args.ending.truncate_at", "'unthinkable'", "tokens", "one other token"],
    ),
    "truncation at EOS": ([f"{M}ending.truncate_at", "<|end|>"], ["model.init_args.ending.truncate_at", "EOS"]),
    "truncation after the end": (
        [f"{M}ending.truncate_at", "t", f"{M}ending.truncate_after", "12"],
        ["model.init_args.ending.truncate_after is 12", "at most 12", "max_response_tokens"],
    ),
    "the beginning of a truncation that there is not": (
        [f"{M}ending.truncate_after", "3"],
        ["model.init_args.ending.truncate_after is 3", "without truncate_at"],
    ),
    "a score in place of one that is kept": (
        [f"{M}ending.missing_eos_score", "-2"],
        ["model.init_args.ending.missing_eos_score is -2", "missing_eos to replace"],
    ),
    "a penalty of a score that is replaced": (
        [f"{M}ending.missing_eos", "replace", f"{M}missing_eos_penalty", "2"],
        ["model.init_args.missing_eos_penalty is 2", "missing_eos_score"],
    ),
}
UNKNOWN = [
    ("kl.estimator", "k4", ["kl", "k4"]),
    ("kl.place", "advantage", ["kl", "advantage"]),
    ("kl.budget_on", "test", ["kl", "test"]),
    ("kl.goal", "6", ["kl.goal"]),
    ("ending.missing_eos", "ignore", ["ending", "ignore"]),
    ("ema.evaluate_with", "mean", ["ema", "mean"]),
    ("ema.export", "both", ["ema", "both"]),
    ("ema", "0.992", ["ema", "0.992"]),
    ("kl", "0.1", ["model.init_args.kl", "0.1"]),
    ("ending", "replace", ["model.init_args.ending", "replace"]),
]


@pytest.mark.parametrize("name", TOGETHER)
def test_settings_that_do_not_go_together(refused: Refusal, name: str) -> None:
    extra, parts = TOGETHER[name]
    refused("ppo", *extra, parts=parts)


@pytest.mark.parametrize(("name", "value", "parts"), UNKNOWN)
def test_settings_that_do_not_exist(refused: Refusal, name: str, value: str, parts: list[str]) -> None:
    refused("ppo", f"{M}{name}", value, parts=parts)
