"""`python -m rlhf_lightning agreement`: table, JSON, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.cli import main

FILE = "configs/quickstart/data/rankings_heldout.jsonl"


def test_the_shipped_rankings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "agreement.json"
    assert main(["agreement", FILE, "--out", str(out), "--resamples", "200"]) == 0
    found = json.loads(out.read_text())
    assert found["overall"]["without_ties"]["value"] == pytest.approx(0.799, abs=1e-3)
    assert 0.005 < found["overall"]["without_ties"]["error"] < 0.02
    assert len(found["pairs"]) == 6
    assert sum(pair["items"] for pair in found["pairs"]) == found["overall"]["items"] == 7656
    printed = capsys.readouterr().out
    assert "| **all** | 79.9 ± 1." in printed
    assert "| alma, bruno |" in printed
    assert "alpha (nominal, a tie is a judgement): 0.500" in printed


def test_several_files_are_one(jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2], "labeler": "ada"}
    one = jsonl([row], "one.jsonl")
    other = jsonl([{**row, "responses": ["b", "a"], "labeler": "ben"}, {**row, "labeler": None}], "other.jsonl")
    assert main(["agreement", one, other]) == 0
    out = capsys.readouterr().out
    assert "| ada, ben | 0.0 | 0.0 | -1.000 | 1 | 1 | 1 |" in out
    assert "1 rankings without a labeler" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "files: name at least one file"),
        (["configs/tiny/data/rankings.jsonl"], "files: no two labelers ranked the same two responses"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
        ([FILE, "--resamples", "1"], "resamples: is 1"),
        ([FILE, "--limit", "0"], "limit: is 0"),
        ([FILE, "--out", "/proc/no/such/file.json", "--resamples", "0"], "out: cannot write"),
        (["configs/tiny/data/prompts.jsonl"], "`responses` is missing"),
    ],
)
def test_refusals(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agreement", *args]) == 1
    assert message in capsys.readouterr().err
