"""`describe` from the command line, and the card that every stage leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.cli import main
from tests.conftest import TinyRuns

DATA = "configs/tiny/data"


def test_the_card_of_two_splits(jsonl: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Tell me something about the animals of the forest, number"
    train = jsonl([{"prompt": f"{prompt} {i}{i}"} for i in range(3)] + [{"prompt": "Hello"}], "train.jsonl")
    val = jsonl([{"prompt": f"{prompt} {i}{i}!"} for i in range(2, 4)] + [{"prompt": "Hello"}], "val.jsonl")
    assert main(["describe", "--train", train, "--val", val, "--out", str(tmp_path / "card")]) == 0
    printed = capsys.readouterr().out
    assert "val: 1 of its prompts are training prompts too" in printed
    assert "val: 2 of its prompts are nearly training prompts" in printed
    card = json.loads((tmp_path / "card" / "data_card.json").read_text())
    assert card["splits"]["val"]["near_duplicates"]["of"]["train"]["prompts"] == 2
    assert card["splits"]["train"]["near_duplicates"]["of"]["train"]["prompts"] == 2
    assert (tmp_path / "card" / "data_card.md").read_text().startswith("# Data card")


def test_labelers_and_tokens(jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": f"p{i}", "responses": ["a", "b"], "ranks": ranks, "labeler": labeler}
        for i in range(4)
        for labeler, ranks in (("ann", [1, 2]), ("bob", [1, 2] if i else [2, 1]))
    ]
    assert main(["describe", jsonl(rows), "--tokenizer", "embedded:tiny"]) == 0
    printed = capsys.readouterr().out
    assert "0.750" in printed
    assert "Lengths in tokens" in printed


@pytest.mark.parametrize(("file", "kind"), [("demonstrations", "demonstrations"), ("pretraining", "pretraining")])
def test_the_kind_is_seen(file: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", f"{DATA}/{file}.jsonl"]) == 0
    assert kind in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no data"),
        ([f"{DATA}/prompts.jsonl", "--val", f"{DATA}/prompts.jsonl"], "give either"),
        (["nowhere.jsonl"], "no file nowhere.jsonl"),
        ([f"{DATA}/prompts.jsonl", "--kind", "rankings"], "prompts.jsonl, line 1: `responses` is missing"),
        ([f"{DATA}/prompts.jsonl", "--near_duplicates", "1.5"], "near_duplicates is 1.5"),
        ([f"{DATA}/prompts.jsonl", "--toxic_words", "nowhere.txt"], "toxic_words: cannot read nowhere.txt"),
        ([f"{DATA}/prompts.jsonl", "--tokenizer", "nowhere"], "tokenizer: "),
        ([f"{DATA}/prompts.jsonl", "--out", "/dev/null/card"], "out: cannot write"),
    ],
)
def test_what_is_wrong_is_one_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *args]) != 0
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert message in error[0]


def test_a_row_of_no_kind(jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", jsonl([{"question": "x"}])]) == 1
    assert "cannot tell what kind of row this is; give --kind" in capsys.readouterr().err


def test_every_stage_leaves_a_card(tiny: TinyRuns) -> None:
    cards = {
        stage: json.loads((tiny.root / stage / "final" / "data_card.json").read_text())
        for stage in ("sft", "reward", "ppo")
    }
    assert {name: split["kind"] for name, split in cards["reward"]["splits"].items()} == {
        "train": "rankings",
        "val": "rankings",
        "demonstrations": "demonstrations",
    }
    assert cards["sft"]["splits"]["train"]["tokens"]["response"]["min"] >= 1
    assert cards["ppo"]["splits"]["train"]["files"] == [f"{DATA}/prompts.jsonl"]
    assert any("labeler 'rule' made 100 %" in line for line in cards["reward"]["warnings"])
