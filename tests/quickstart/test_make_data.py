import json
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from candidate_sets import candidates

from rlhf_lightning.quickstart.labelers import LABELERS
from rlhf_lightning.quickstart.make_data import (
    PROMPT_FILES,
    main,
    read_rows,
    response_counts,
    write_prompts,
    write_rankings,
)

SMALL = dict.fromkeys(PROMPT_FILES, 20)


def test_command_writes_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "data"
    main(
        [
            "prompts",
            "--out",
            str(out),
            "--demonstrations",
            "30",
            "--train-prompts",
            "50",
            "--heldout-seen",
            "10",
        ]
    )
    assert sorted(p.name for p in out.iterdir()) == sorted(f"{name}.jsonl" for name in PROMPT_FILES)
    assert len(read_rows(out / "demonstrations.jsonl")) == 30
    assert len(read_rows(out / "prompts.jsonl")) == 50
    assert len(read_rows(out / "heldout_seen.jsonl")) == 10
    assert len(read_rows(out / "heldout_unseen.jsonl")) == 96
    assert "prompts.jsonl: 50 rows" in capsys.readouterr().out
    for path in out.iterdir():
        for line in path.read_text().splitlines():
            assert line == json.dumps(json.loads(line), sort_keys=True)


def test_files_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_prompts(tmp_path / name, 4, SMALL)
    write_prompts(tmp_path / "c", 5, SMALL)
    for name in PROMPT_FILES:
        first, second, other = ((tmp_path / d / f"{name}.jsonl").read_bytes() for d in "abc")
        assert first == second != other


def test_rankings_are_written_beside_their_prompts(tmp_path: Path) -> None:
    write_prompts(tmp_path, 0, SMALL)
    rng = Random(0)
    train, heldout = (
        [candidates(row["check"], rng) for row in read_rows(tmp_path / f"{name}.jsonl")]
        for name in ("ranking_prompts", "ranking_prompts_heldout")
    )
    written = write_rankings(tmp_path, train, heldout, seed=0)
    rankings, rankings_heldout = (read_rows(tmp_path / f"{n}.jsonl") for n in ("rankings", "rankings_heldout"))
    assert written == {"rankings": len(rankings), "rankings_heldout": len(rankings_heldout)}
    assert 0 < len(rankings) <= 20
    assert len(rankings_heldout) > len(rankings)
    assert {row["labeler"] for row in rankings_heldout} == {labeler.name for labeler in LABELERS}


def test_samples_of_another_number_of_prompts_are_an_error(tmp_path: Path) -> None:
    write_prompts(tmp_path, 0, SMALL)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        write_rankings(tmp_path, [], [], seed=0)


def test_rankings_command_samples_from_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []

    def sample(policy: str, prompts: list[str], counts: list[int], seed: int) -> list[list[tuple[str, bool]]]:
        asked.append((policy, len(prompts), seed))
        return [[(f"Response {i} says {i} things.", True) for i in range(count)] for count in counts]

    stub = ModuleType("rlhf_lightning.quickstart.sampling")
    stub.sample_responses = sample  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    write_prompts(tmp_path, 0, SMALL)
    main(["rankings", "--policy", "some/artefact", "--out", str(tmp_path), "--seed", "3"])
    assert asked == [("some/artefact", 20, 3)] * 2
    prompts = read_rows(tmp_path / "ranking_prompts.jsonl")
    assert {len(r["responses"]) for r in read_rows(tmp_path / "rankings.jsonl")} <= set(response_counts(prompts, 3))


def test_counts_cover_four_to_nine(tmp_path: Path) -> None:
    write_prompts(tmp_path, 0, SMALL | {"ranking_prompts": 100})
    prompts = read_rows(tmp_path / "ranking_prompts.jsonl")
    assert set(response_counts(prompts, 0)) == set(range(4, 10))
    assert response_counts(prompts, 0) == response_counts(prompts, 0)
