"""Tasks through the command line: every kind on the tiny models, cut off and resumed, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_lightning.cli import main
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.sections import read_result
from rlhf_lightning.evaluation.tasks.kinds import KINDS
from tests.conftest import TINY, TinyRuns

CONFIG = TINY / "tasks" / "evaluate.yaml"


@pytest.fixture
def run(tiny: TinyRuns, tmp_path: Path) -> Callable[..., int]:
    """Evaluates base and SFT model with the tasks of the tiny configuration, changed as a test wants."""

    def start(change: dict[str, Any] | None = None, out: str = "out") -> int:
        values = yaml.safe_load(CONFIG.read_text())
        values["models"] = {"base": "embedded:tiny", "sft": str(tiny.root / "sft")}
        values |= {"limit": 1, "out": str(tmp_path / out), **(change or {})}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        return main(["evaluate", "--config", str(tmp_path / "config.yaml")])

    return start


def test_every_kind_of_task(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    found = read_result(tmp_path / "out", "tasks")
    assert found is not None
    configured = yaml.safe_load(CONFIG.read_text())["tasks"]
    assert {t["class_path"] for t in configured} == {kind.__name__ for kind in KINDS}
    for results in found["models"].values():
        assert len(results) == len(configured)
        for name, result in results.items():
            lines = (tmp_path / "out" / result["outcomes"]).read_text().splitlines()
            assert len(lines) == result["n"] > 0
            assert all(m["low"] <= m["mean"] <= m["high"] for m in result["metrics"].values()), name
            assert set(found["headline"][name]) <= result["metrics"].keys()
    assert found["harms"]["refusals"]
    assert not found["harms"]["squad"]
    assert found["models"]["base"]["perplexity"] != found["models"]["sft"]["perplexity"]
    assert set(found["models"]["sft"]["crows_pairs"]["categories"]) == {"age", "gender"}
    assert "crude" in found["models"]["sft"]["toxicity"]["notes"][0]
    printed = capsys.readouterr().out
    for row in ("| squad | f1 |", "| toxicity | expected_max_toxicity |", "| refusals | over_refusal_rate |"):
        assert row in printed


def test_a_run_that_is_cut_off_asks_nothing_again(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("Perplexity", "MultipleChoice", "SentencePairs", "Refusals")
    tasks = [t for t in yaml.safe_load(CONFIG.read_text())["tasks"] if t["class_path"] in kinds]
    assert run({"tasks": tasks}, out="whole") == 0
    calls, score = [0], LanguageModel._score

    def interrupted(self: LanguageModel, pairs: Sequence[Any], with_greedy: bool) -> Any:
        calls[0] += 1
        if calls[0] == 3:  # perplexity and multiple choice of the base model are done
            raise KeyboardInterrupt
        return score(self, pairs, with_greedy)

    monkeypatch.setattr(LanguageModel, "_score", interrupted)
    assert run({"tasks": tasks}, out="cut") == 130
    assert run({"tasks": tasks}, out="cut") == 0
    # Of both models: perplexity, choices and sentence pairs; one of them was asked twice.
    assert calls[0] == 2 * 3 + 1
    assert read_result(tmp_path / "cut", "tasks") == read_result(tmp_path / "whole", "tasks")
    for file in (tmp_path / "whole" / "tasks").rglob("*.jsonl"):
        assert (tmp_path / "cut" / "tasks" / file.parent.name / file.name).read_bytes() == file.read_bytes()
    assert run({"tasks": tasks}, out="cut") == 0
    assert calls[0] == 2 * 3 + 1


def broken(tmp_path: Path) -> list[dict[str, Any]]:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    return [{"class_path": "Perplexity", "init_args": {"data": str(tmp_path / "bad.jsonl")}}]


TEXT = "configs/tiny/data/pretraining.jsonl"
REFUSED: list[tuple[Any, int, str]] = [
    (broken, 1, "tasks.perplexity.data: {tmp}/bad.jsonl, line 2: `text` is a number; it must be a string."),
    ([{"class_path": "Perplexity", "init_args": {"data": TEXT}}] * 2, 1, "tasks: two are called 'perplexity'"),
    ([{"class_path": "Perplexity", "init_args": {"data": TEXT, "context": 3}}], 2, "Perplexity has no such option"),
    ([{"class_path": "Perplexity"}], 2, "data"),
    ([{"class_path": "Nonsense", "init_args": {"data": TEXT}}], 2, "Nonsense"),
    ([{"class_path": "Perplexity", "init_args": {"data": TEXT, "limit": 0}}], 1, "tasks.perplexity.limit is 0"),
]


@pytest.mark.parametrize(("tasks", "status", "part"), REFUSED)
def test_what_is_wrong_is_said_before_anything_is_computed(
    run: Callable[..., int], tmp_path: Path, tasks: Any, status: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tasks(tmp_path) if callable(tasks) else tasks
    assert run({"tasks": given}) == status
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert part.replace("{tmp}", str(tmp_path)) in error
    assert not (tmp_path / "out" / "generations").exists()
    assert not (tmp_path / "out" / "tasks").exists()


def test_results_of_other_settings_are_kept_or_replaced(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tasks(tokens: int) -> list[dict[str, Any]]:
        return [{"class_path": "Perplexity", "init_args": {"data": TEXT, "limit": 3, "context_tokens": tokens}}]

    assert run({"tasks": tasks(16)}) == 0
    about = tmp_path / "out" / "tasks" / "sft" / "perplexity.json"
    before = about.read_bytes()
    assert run({"tasks": tasks(32)}) == 1
    assert "`context_tokens` was 16 there and is 32 now" in capsys.readouterr().err
    assert about.read_bytes() == before
    assert run({"tasks": tasks(32), "overwrite": True}) == 0
    assert json.loads(about.read_text())["identity"]["context_tokens"] == 32


def test_lm_eval_is_asked_for_before_anything_is_computed(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert run({"tasks": [], "lm_eval": {"tasks": ["hellaswag"]}}) == 1
    assert "pip install -e '.[lm-eval]'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "generations").exists()
