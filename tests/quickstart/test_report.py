"""The quickstart's comparison and report, on the tiny models."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.evaluation.intervals import mean_interval
from rlhf_lightning.quickstart import run
from rlhf_lightning.quickstart.compare import agreement_of, build_panel, compare
from rlhf_lightning.quickstart.evaluation_files import write_page
from rlhf_lightning.quickstart.make_data import read_rows, write_prompts, write_rankings
from rlhf_lightning.quickstart.report import markdown, write_report
from tests.conftest import TinyRuns

SIZES = {"ranking_prompts": 4, "ranking_prompts_heldout": 6, "heldout_seen": 12, "heldout_unseen": 6}


@pytest.fixture(scope="module")
def report(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], str]:
    root = tmp_path_factory.mktemp("quickstart")
    for stage in ("sft", "reward", "ppo"):
        (root / stage).symlink_to(tiny.root / stage)
    data = root / "data"
    write_prompts(data, seed=0, sizes=SIZES)
    texts = [("Yes.", True), ("no idea", False), ("It is a thing that people like.", True), ("one, two", True)]
    samples = [[(f"{t} {i}", e) for t, e in texts] for i in range(6)]
    write_rankings(data, samples[:4], samples, seed=0)
    panel = build_panel(root, "embedded:tiny")
    result = compare(panel, data, seed=0, max_tokens=8, out=root / "evaluation")
    text = write_report(root, result, seed=1, wall_s=60.0)
    write_page(root / "evaluation", root, json.loads((root / "report.json").read_text()), ["make", "quickstart"])
    return json.loads((root / "report.json").read_text()) | {"page": root / "evaluation" / "report.html"}, text


def test_the_page_says_the_same(report: tuple[dict[str, object], str]) -> None:
    content: dict = report[0]  # type: ignore[type-arg]
    page = content["page"].read_text()
    sections = ["glance", "preference", "frontier", "trust", "samples", "learning", "data-sft", "data-ppo"]
    assert re.findall(r'<section id="([^"]+)"', page) == [*sections, "data-reward", "reproduce"]
    gain = content["models"]["ppo"]["win_rate_vs_sft"]
    assert f"{100 * gain['mean']:.1f} %" in page
    rows = [json.loads(line) for line in (content["page"].parent / "generations" / "ppo.jsonl").open()]
    assert len(rows) == 2 * (12 + 6)
    measured = [row["kl"] for row in rows if row["kl"] is not None]
    assert sum(measured) / len(measured) == pytest.approx(content["models"]["ppo"]["kl"])


def test_report_has_the_keys_that_scripts_rely_on(report: tuple[dict[str, object], str]) -> None:
    content: dict = report[0]  # type: ignore[type-arg]
    assert {"commit", "seed", "wall_s", "models", "reward_model"} <= content.keys()
    for name in ("base", "sft", "ppo"):
        model = content["models"][name]
        for key in ("gold_seen", "gold_unseen", "score", "win_rate_vs_sft"):
            assert model[key]["low"] <= model[key]["mean"] <= model[key]["high"]
        assert {"kl", "response_tokens", "eos_rate"} <= model.keys()
    assert content["models"]["sft"]["kl"] == 0.0
    assert content["models"]["sft"]["win_rate_vs_sft"]["mean"] == 0.5
    assert content["models"]["ppo"]["kl"] != 0.0
    assert {"pair_accuracy", "length_baseline", "labeler_agreement"} <= content["reward_model"].keys()


def test_stages_of_another_seed_are_named(report: tuple[dict[str, object], str]) -> None:
    content: Any = report[0]
    seeds = {"sft": 1, "reward": 1, "ppo": 2}
    assert ", seed 2 (of sft 1 and reward 1), " in markdown(content | {"seed": 2}, content | {"stage_seeds": seeds})
    assert ", seed 1, " in report[1]


def test_markdown_shows_every_model_and_three_samples(report: tuple[dict[str, object], str]) -> None:
    text = report[1]
    assert text.count("| PPO |") == 5  # two tables and three samples
    assert "| base model |" in text


def test_shipped_data_is_what_the_command_makes(tmp_path: Path) -> None:
    """All but the rankings, which need the SFT model."""
    write_prompts(tmp_path, seed=0)
    for path in tmp_path.glob("*.jsonl"):
        assert path.read_bytes() == (Path("configs/quickstart/data") / path.name).read_bytes(), path.name


def test_shipped_rankings_answer_the_shipped_prompts() -> None:
    data = Path("configs/quickstart/data")
    for name in ("ranking_prompts", "ranking_prompts_heldout"):
        prompts = {row["prompt"] for row in read_rows(data / f"{name}.jsonl")}
        rows = read_rows(data / f"{name.replace('ranking_prompts', 'rankings')}.jsonl")
        assert {row["prompt"] for row in rows} <= prompts
        assert all(2 <= len(row["responses"]) <= 9 for row in rows)
    agreement = agreement_of(read_rows(data / "rankings_heldout.jsonl"))
    assert agreement is not None
    assert 0.7 < agreement < 0.9


def test_finished_stages_are_skipped(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    run.run_stage("sft", tiny.root, seed=1)
    assert "already finished" in capsys.readouterr().out


def test_finished_stages_of_another_seed_are_refused(
    tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[str, int]] = []
    monkeypatch.setattr(run, "run_stage", lambda stage, root, seed: started.append((stage, seed)))
    monkeypatch.setattr(run, "build_panel", lambda *_: sys.exit("compares"))

    def quickstart(root: Path, *args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["run", "--root", str(root), *args])
        return run.main()

    assert quickstart(tiny.root, "--seed", "2") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: ROOT: '{tiny.root}' holds a finished sft stage of seed 1, not 2.")
    assert quickstart(tiny.root, "--ppo-seed", "2") == 1
    assert "a finished ppo stage of seed 1, not 2" in capsys.readouterr().err
    assert not started
    with pytest.raises(SystemExit, match="compares"):
        quickstart(tiny.root, "--seed", "1")
    for stage in ("sft", "reward"):
        shutil.copytree(tiny.root / stage, tmp_path / stage)
    started.clear()
    with pytest.raises(SystemExit, match="compares"):
        quickstart(tmp_path, "--ppo-seed", "2")
    assert started == [("sft", 1), ("reward", 1), ("ppo", 2)]


def test_intervals() -> None:
    interval = mean_interval([0.0, 1.0] * 200)
    # Normal approximation: 0.5 ± 1.96 * 0.5 / sqrt(400); the bootstrap's own error is about 0.002.
    assert interval.mean == 0.5
    assert interval.low == pytest.approx(0.451, abs=0.01)
    assert interval.high == pytest.approx(0.549, abs=0.01)
    assert mean_interval([3.0]).low == mean_interval([3.0]).high == 3.0
