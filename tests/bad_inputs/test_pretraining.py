"""Pretraining text and its weight: what is missing, too short or empty is refused before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bad_inputs.refusal import Refusal

KEY, TEXT = "data.init_args.pretrain", "configs/tiny/data/pretraining.jsonl"
PTX, SHARE = "model.init_args.ptx", "data.init_args.pretrain_share"
AT_LEAST_0, AT_LEAST_2, ABOVE_0 = "must be at least 0", "must be at least 2", "must be above 0"


@pytest.fixture
def rows(tmp_path: Path) -> Any:
    """Writes rows to a file and gives its name."""

    def write(*content: Any) -> str:
        path = tmp_path / "text.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return str(path)

    return write


@pytest.mark.parametrize("stage", ["ppo_ptx", "ppo_init_sft"])
@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"text": ""}, ["line 2", "`text` is empty", "delete the row"]),
        ({"text": " \n\t"}, ["line 2", "`text` is empty", "delete the row"]),
        ({"prompt": "Hi."}, ["line 2", "`text` is missing", "`prompt`"]),
        ({"text": ["Hi."]}, ["line 2", "`text` is a list", "must be a string"]),
        ({"text": "\ud800"}, ["line 2", "half of a character"]),
    ],
    ids=["empty", "white space", "other field", "list", "half a character"],
)
def test_row(refused: Refusal, rows: Any, stage: str, row: Any, parts: list[str]) -> None:
    path = rows({"text": "A cat. " * 20}, row)
    refused(stage, f"--{KEY}", path, parts=[KEY, path, *parts])


def test_text_shorter_than_one_sequence(refused: Refusal, rows: Any) -> None:
    """Seven bytes and EOS, twice; the tiny tokenizer has a token for each byte."""
    path = rows({"text": "A cat.."}, {"text": "A dog.."})
    parts = [f"{KEY}: the text has 16 tokens", "each of 2 rows", f"{PTX}.context_tokens = 64", "Give more text"]
    refused("ppo_ptx", f"--{KEY}", path, parts=parts)
    parts = ["the text has 16 tokens", "data.init_args.pretrain_tokens = 48"]
    refused("ppo_init_sft", f"--{KEY}", path, parts=[KEY, *parts])


def test_file_that_is_not_there(refused: Refusal) -> None:
    refused("ppo_ptx", f"--{KEY}", "nowhere.jsonl", parts=[KEY, "nowhere.jsonl"])


def test_coefficient_without_text(refused: Refusal) -> None:
    parts = [f"{PTX}.coef is 27.8", "no pretraining text", f"give {KEY}", "to 0"]
    refused("ppo_ptx", f"--{KEY}", "null", parts=parts)


def test_text_without_coefficient(refused: Refusal) -> None:
    refused("ppo", f"--{KEY}", TEXT, parts=[f"{KEY} is given", f"{PTX}.coef is 0", "Set the coefficient", "leave"])


def test_share_without_text(refused: Refusal) -> None:
    refused("sft", f"--{SHARE}", "0.2", parts=[f"{SHARE} is 0.2", "no pretraining text", f"give {KEY}"])


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [("ppo_ptx", f"{PTX}.context_tokens", "513"), ("ppo_init_sft", "data.init_args.pretrain_tokens", "513")],
)
def test_sequences_longer_than_the_models_context(refused: Refusal, stage: str, name: str, value: str) -> None:
    refused(stage, f"--{name}", value, parts=[f"{name} is {value}", "context length is 512", "Lower it"])


@pytest.mark.parametrize(
    ("stage", "name", "value", "wanted"),
    [
        ("ppo_ptx", f"{PTX}.coef", "-1", AT_LEAST_0),
        ("ppo_ptx", f"{PTX}.coef", ".nan", "is nan"),
        ("ppo_ptx", f"{PTX}.ratio", "0", ABOVE_0),
        ("ppo_ptx", f"{PTX}.context_tokens", "1", AT_LEAST_2),
        ("ppo_init_sft", SHARE, "0", ABOVE_0),
        ("ppo_init_sft", SHARE, "1", "below 1"),
        ("ppo_init_sft", "data.init_args.pretrain_tokens", "1", AT_LEAST_2),
        ("sft", "model.init_args.residual_dropout", "1", "at least 0 and below 1"),
    ],
    ids=lambda v: str(v)[-24:],
)
def test_number(refused: Refusal, stage: str, name: str, value: str, wanted: str) -> None:
    refused(stage, f"--{name}", value, parts=[f"{name} is ", wanted])


def test_reduction_that_does_not_exist(refused: Refusal) -> None:
    refused("ppo_ptx", f"--{PTX}.reduction", "mean", parts=["ptx", "mean"])


def test_residual_dropout_of_an_architecture_without(refused: Refusal) -> None:
    parts = ["model.init_args.residual_dropout is 0.2", "'llama'", "no residual dropout", "Leave it out"]
    refused("sft", "--model.init_args.residual_dropout", "0.2", parts=parts)
