"""`python -m rlhf_lightning trust`: a tiny reward model, its own training data, and what a user may get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.cli import main
from tests.conftest import TinyRuns

RANKINGS = "configs/tiny/data/rankings.jsonl"


def run(tiny: TinyRuns, out: Path, *extra: str) -> int:
    common = ["--reward", str(tiny.root / "reward"), "--out", str(out), "--precision", "32-true", "--device", "cpu"]
    return main(["trust", *common, *extra])


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def outputs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "response": f"{text} {i}", "kl": 0.1 * i, **more}
        for row in rows_of(RANKINGS)[:6]
        for i, text in enumerate((row["responses"] * count)[:count])
    ]


def test_a_report_is_written(
    tiny: TinyRuns, tmp_path: Path, jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = jsonl(outputs(4, gold=0.5), "ppo.jsonl"), jsonl(outputs(1, gold=0.2), "sft.jsonl")
    generations = ["--generations.ppo", files[0], "--generations.sft", files[1]]
    assert run(tiny, tmp_path / "trust", "--rankings", RANKINGS, *generations) == 0
    report = json.loads((tmp_path / "trust" / "trust.json").read_text())
    made_from = report["made_from"]
    assert made_from["training"] == {"rows": 24, "known": "from the artefact's stage.json"}
    assert made_from["held_out_prompts_in_training"] == 24
    assert "24 prompts of `rankings` are training prompts too" in capsys.readouterr().out
    assert report["accuracy"]["prompts"] == 24
    assert {s["policy"] for s in report["distribution"]} == {"ppo", "sft"}
    assert [c["of"] for c in report["overoptimisation"]] == ["policies", "best-of-n of ppo"]
    assert report["left_out"]["category"]
    text = (tmp_path / "trust" / "trust.md").read_text()
    assert "training prompts too" in text
    for heading in ("Findings", "Slices", "Labelers", "Length", "Calibration", "Outputs against", "best-of-n of ppo"):
        assert f"## {heading}" in text or heading in text


def test_scores_are_validations(tiny: TinyRuns, tmp_path: Path) -> None:
    """The accuracy is what the reward stage itself logged for the same model and rankings."""
    assert run(tiny, tmp_path / "trust", "--rankings", RANKINGS) == 0
    report = json.loads((tmp_path / "trust" / "trust.json").read_text())
    logged = json.loads((tiny.root / "reward" / "final" / "stage.json").read_text())["metrics"]
    assert report["accuracy"]["value"] == pytest.approx(logged["val/accuracy"], abs=1e-6)
    assert report["calibration"]["ece"] == pytest.approx(logged["val/ece"], abs=1e-4)


def test_again_is_the_same(tiny: TinyRuns, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(tiny, tmp_path / name, "--rankings", RANKINGS, "--training", RANKINGS) == 0
    assert (tmp_path / "one" / "trust.json").read_bytes() == (tmp_path / "two" / "trust.json").read_bytes()


def test_sections_without_data_say_why(tiny: TinyRuns, tmp_path: Path, jsonl: Callable[..., str]) -> None:
    bare = jsonl([{"prompt": r["prompt"], "responses": r["responses"], "ranks": r["ranks"]} for r in rows_of(RANKINGS)])
    plain_outputs = [{k: v for k, v in row.items() if k != "kl"} for row in outputs(1)]
    generations = jsonl(plain_outputs, "generations.jsonl")
    assert run(tiny, tmp_path / "trust", "--rankings", bare, "--generations.ppo", generations) == 0
    report = json.loads((tmp_path / "trust" / "trust.json").read_text())
    assert "without `labeler`" in report["left_out"]["labelers"]
    assert "`kl`" in report["left_out"]["overoptimisation"]
    assert report["labelers"] == []
    assert "Not in this report" in (tmp_path / "trust" / "trust.md").read_text()


def test_training_files_that_are_gone_are_no_error(tiny: TinyRuns, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "final"
    shutil.copytree(tiny.root / "reward" / "final", copy)
    info = json.loads((copy / "stage.json").read_text())
    info["data"]["train"]["files"] = ["gone.jsonl"]
    (copy / "stage.json").write_text(json.dumps(info))
    assert main(["trust", "--reward", str(copy), "--rankings", RANKINGS, "--out", str(tmp_path / "trust")]) == 0
    report = json.loads((tmp_path / "trust" / "trust.json").read_text())
    assert report["made_from"]["training"]["rows"] is None
    assert "gone.jsonl" in report["made_from"]["training"]["known"]
    assert report["slices"][0]["train_rows"] is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--rankings", "nowhere.jsonl"], "rankings: there is no file nowhere.jsonl"),
        (["--rankings", RANKINGS, "--training", "nowhere.jsonl"], "training: there is no file nowhere.jsonl"),
        (["--rankings", RANKINGS, "--generations.ppo", "nowhere.jsonl"], "generations.ppo: there is no file"),
        (
            ["--rankings", RANKINGS, "--generations.ppo", RANKINGS],
            "generations.ppo: configs/tiny/data/rankings.jsonl, line 1",
        ),
        (["--rankings", RANKINGS, "--slices.min_prompts", "1"], "slices.min_prompts is 1"),
        (["--rankings", RANKINGS, "--device", "abacus"], "device: 'abacus' cannot be used here"),
        (["--rankings", RANKINGS, "--reward", "sft"], "reward: "),
    ],
)
def test_what_is_wrong_is_one_line(
    tiny: TinyRuns, tmp_path: Path, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = [str(tiny.root / "sft") if e == "sft" else e for e in extra]
    assert run(tiny, tmp_path / "trust", *extra) != 0
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "trust").exists()


def test_a_number_that_is_none_is_an_error(
    tiny: TinyRuns, tmp_path: Path, jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = jsonl([{"prompt": "Hi", "response": "Hay.", "kl": "much"}])
    assert run(tiny, tmp_path / "trust", "--rankings", RANKINGS, "--generations.ppo", file) != 0
    assert "line 1: `kl` is 'much'" in capsys.readouterr().err


def test_a_section_of_an_evaluation(tiny: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"--models.{name}={tiny.root / name}" for name in ("sft", "ppo")]
    common = ["evaluate", "--config", "configs/tiny/evaluate.yaml", "--limit", "6", "--samples_per_prompt", "4"]
    common += [*models, "--models.base", "embedded:tiny", "--reward", str(tiny.root / "reward"), "--out", str(tmp_path)]
    common += ["--judges.longer", "tests.evaluation.judges_for_tests.Longer"]
    common += ["--judges.reward", "rlhf_lightning.evaluation.judges.RewardJudge"]
    assert main([*common, "--trust.rankings", RANKINGS, "--trust.gold", "longer"]) == 0
    result = json.loads((tmp_path / "results" / "trust.json").read_text())["result"]
    assert result["reward"] == "reward"
    assert result["training"]["rows"] == result["held_out_prompts_in_training"] == 24
    assert {s["policy"] for s in result["distribution"]} == {"base", "sft", "ppo"}
    assert result["overoptimisation"][0]["of"] == "policies"
    assert len(result["overoptimisation"]) == 4
    assert main([*common, "--trust.rankings", RANKINGS, "--trust.gold", "nobody"]) == 1
    assert "trust.gold: 'nobody' is none of the judges" in capsys.readouterr().err
    assert main([*common, "--trust.rankings", RANKINGS, "--trust.gold", "reward"]) == 1
    assert "trust.gold: 'reward' is the reward model that the report is about (reward)" in capsys.readouterr().err


def test_few_pairs_have_no_calibration(tiny: TinyRuns, tmp_path: Path, jsonl: Callable[..., str]) -> None:
    file = jsonl([{"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, 2]}])
    assert run(tiny, tmp_path / "trust", "--rankings", file) == 0
    report = json.loads((tmp_path / "trust" / "trust.json").read_text())
    assert report["calibration"] is None
    assert "fewer than 40 pairs" in report["left_out"]["calibration"]
