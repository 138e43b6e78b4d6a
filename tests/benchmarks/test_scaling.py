"""The scaling benchmark: exponents and verdicts, rows of exact lengths, and one small point of each stage."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from benchmarks.scaling.exponents import fit_power, judge, upper_half
from benchmarks.scaling.point import prepare_point, run_point, template_tokens
from benchmarks.scaling.work import Work
from rlhf_lightning.models.tiny import tokenizer
from rlhf_lightning.prompt_template import PromptTemplate


def test_a_power_law_is_found() -> None:
    law = fit_power([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)])
    assert law.exponent == pytest.approx(1.5)
    assert law.residual == pytest.approx(0, abs=1e-12)


def test_the_upper_half_is_fitted_and_at_least_three_points() -> None:
    assert [list(range(n))[upper_half(n)] for n in (2, 3, 4, 5, 8)] == [
        [0, 1],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [4, 5, 6, 7],
    ]


def test_verdicts() -> None:
    x = [1, 2, 4, 8, 16]
    linear = [float(v) for v in x]
    assert judge(x, linear, linear, "seconds")["verdict"] == "as theory or better"
    assert judge(x, [5.0] * 5, linear, "seconds")["verdict"] == "as theory or better"
    assert judge(x, [v**1.3 for v in x], linear, "seconds")["verdict"] == "WORSE than theory"
    assert judge(x, [v**1.12 for v in x], linear, "bytes")["verdict"] == "WORSE than theory"
    noisy = [1, 2, 4, 14, 16]
    assert judge(x, noisy, linear, "seconds")["verdict"].endswith("noisy")


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_rows_have_the_lengths_that_they_should(stage: str, tmp_path: Path) -> None:
    work = Work(stage, prompt=40, response=10, batch=3, k=5)
    work.write_rows(tmp_path / "rows.jsonl", template_tokens())
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    template = PromptTemplate(tokenizer())
    assert len(rows) == 6
    for row in rows:
        assert len(template.encode_prompt(row["prompt"])) == 40
        responses = row.get("responses") or [row["response"]] if stage != "ppo" else []
        assert len(responses) == {"sft": 1, "reward": 5, "ppo": 0}[stage]
        assert all(len(template.encode_response(r)) == 10 for r in responses)


@pytest.mark.parametrize(("stage", "phases"), [("sft", {"step"}), ("ppo", {"rollout", "scoring", "update"})])
def test_a_point_is_measured(stage: str, phases: set[str], tmp_path: Path) -> None:
    work = Work(stage, prompt=24, response=8, batch=4, hidden=64, layers=1)
    out = tmp_path / "point.json"
    for target, arguments in (
        (prepare_point, (work, tmp_path, tmp_path / "log")),
        (run_point, (work, tmp_path, out, 2, 1)),
    ):
        process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
        process.start()
        process.join(120)
        assert process.exitcode == 0
    result = json.loads(out.read_text())
    assert result["seconds"].keys() == result["bytes"].keys() == phases
    assert all(len(values) == 2 and min(values) > 0 for values in result["seconds"].values())
    assert min(result["bytes"].values()) > 0
