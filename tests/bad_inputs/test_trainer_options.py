"""Options of Lightning's trainer that cannot work, here or in this project."""

from __future__ import annotations

import os

import pytest
import torch

from tests.bad_inputs.refusal import Refusal

TOO_MANY = max(os.cpu_count() or 1, 2) + 1
NO_GPU = pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
OPTIONS = [
    ("sft", "precision", "bf17", ["expected", "'bf16-mixed'", "Got value: bf17"]),
    ("sft", "max_epochs", "0", ["is 0", "nothing would be trained"]),
    ("sft", "max_epochs", "-5", ["max_epochs", "-5"]),
    ("sft", "max_epochs", "soon", ["expected int", "soon"]),
    ("ppo", "max_steps", "0", ["nothing would be trained"]),
    ("sft", "limit_train_batches", "0", ["nothing would be trained"]),
    ("sft", "limit_val_batches", "-1", ["limit_val_batches", "-1"]),
    ("sft", "accumulate_grad_batches", "0", ["must be at least 1"]),
    ("sft", "gradient_clip_val", "-1", ["must be at least 0"]),
    ("sft", "devices", "0", ["devices"]),
    ("sft", "devices", str(TOO_MANY), [f"is {TOO_MANY}", "CPU cores"]),
    ("sft", "devices", "1.5", ["devices"]),
    pytest.param("sft", "accelerator", "gpu", ["'gpu'", "no GPU", "cpu or auto"], marks=NO_GPU),
    ("sft", "accelerator", "quantum", ["accelerator", "quantum", "cpu"]),
    ("sft", "strategy", "ddpp", ["strategy", "ddpp"]),
    ("sft", "callbacks", "NoSuchCallback", ["NoSuchCallback"]),
    ("ppo", "limit_train_batches", "2", ["limit_train_batches", "data.init_args.limit"]),
    ("ppo", "limit_train_batches", "0.5", ["limit_train_batches", "data.init_args.limit"]),
    ("ppo", "overfit_batches", "1", ["overfit_batches", "data.init_args.limit"]),
    ("ppo", "accumulate_grad_batches", "100", ["accumulate_grad_batches", "large enough"]),
]


@pytest.mark.parametrize(("stage", "name", "value", "parts"), OPTIONS)
def test_trainer_option(refused: Refusal, stage: str, name: str, value: str, parts: list[str]) -> None:
    refused(stage, f"--trainer.{name}", value, parts=["trainer", *parts])


@pytest.mark.parametrize("value", ["-1", "4294967296", "soon"])
def test_seed(refused: Refusal, value: str) -> None:
    refused("sft", "--seed_everything", value, parts=["seed_everything", value])
