"""Accuracy by labeler, labeler group and category, from any validation of a reward model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor

from rlhf_lightning.cli import main
from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.row_labels import RowLabels
from rlhf_lightning.pair_accuracy import PairCounts
from rlhf_lightning.reward.loss import decided_pairs
from rlhf_lightning.reward.slice_table import MOST, RankingResults, markdown, slices_of
from tests.conftest import TINY, TinyRuns


def labels_of(*rows: dict[str, Any]) -> RowLabels:
    labels = RowLabels()
    for row in rows:
        labels.add(Ranking(**{"prompt": "p", "responses": ("a", "b"), "ranks": (1, 2)} | row))
    return labels


def text(run: Path, tag: str) -> str:
    """The last text of a tag in TensorBoard's files."""
    found = [
        value.tensor.string_val[0].decode()
        for file in sorted((run / "tensorboard").glob("events*"), key=lambda f: f.stat().st_mtime_ns)
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == f"{tag}/text_summary"
    ]
    return found[-1]


@pytest.fixture
def labelled(jsonl: Callable[..., str]) -> str:
    """The tiny rankings, by two labelers of one group, a third of another, and nobody, about two things and none."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (TINY / "data" / "rankings.jsonl").open()]
    who = [("ada", "one"), ("ben", "one"), ("cy", "two"), (None, None)]
    for i, row in enumerate(rows):
        row["labeler"], row["labeler_group"] = who[i % 4]
        row["category"] = ["food", "sleep", None][i % 3]
    return jsonl(rows)


def test_every_validation_tells_slices_apart(tiny: TinyRuns, labelled: str) -> None:
    extra = ("--data.init_args.val", labelled, "--trainer.num_sanity_val_steps", "1", "--data.init_args.val_batch_size")
    run = tiny.run("reward", "slices", *extra, "5")
    found = json.loads((run / "val_accuracy.json").read_text())
    assert (found["step"], found["last_step"]) == (12, True)
    metrics = json.loads((run / "final" / "stage.json").read_text())["metrics"]
    everything = found["all"]["all"]
    assert everything["accuracy"] == pytest.approx(metrics["val/accuracy"])
    assert (everything["pairs"], everything["prompts"]) == (92, 24)
    assert list(found["labeler"]) == ["ada", "ben", "cy", "(no labeler)"]
    assert list(found["labeler_group"]) == ["one", "two", "(no labeler group)"]
    assert list(found["category"]) == ["food", "sleep", "(no category)"]
    for column in ("labeler", "labeler_group", "category"):
        slices = found[column].values()
        assert sum(s["pairs"] for s in slices) == 92
        assert sum(s["pairs"] * s["accuracy"] for s in slices) == pytest.approx(92 * everything["accuracy"])
    rows = list(csv.DictReader((run / "val_rankings.csv").open()))
    ben = [row for row in rows if row["labeler"] == "ben"]
    assert [row["line"] for row in ben] == ["2", "6", "10", "14", "18", "22"]
    assert {row["file"] for row in rows} == {labelled}
    assert found["labeler"]["ben"]["accuracy"] == sum(int(r["right"]) for r in ben) / sum(int(r["pairs"]) for r in ben)
    assert "| labeler | (no labeler) |" in text(run, "val/accuracy_by_slice")


@pytest.mark.parametrize(("verb", "split"), [("validate", "val"), ("test", "test")])
def test_without_training_too(
    tiny: TinyRuns, labelled: str, verb: str, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [verb, *tiny.args("reward", f"slices_{verb}", "--data.init_args.val", labelled)[1:]]
    assert main([*args, "--model.init_args.init_from", str(tiny.root / "reward")]) == 0
    run = tiny.root / f"slices_{verb}"
    found = json.loads((run / f"{split}_accuracy.json").read_text())
    trained = json.loads((tiny.root / "reward" / "val_accuracy.json").read_text())
    assert found["all"] == trained["all"]
    assert found["checkpoint"] is None
    assert text(run, f"{split}/accuracy_by_slice") in capsys.readouterr().out


def test_the_weights_of_a_run_are_not_passed_over(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    """The model as it is before training would be scored, and written as the run's result."""
    run = tiny.root / "reward"
    before = (run / "val_accuracy.json").read_bytes()
    args = ["validate", *tiny.args("reward", "reward")[1:]]
    assert main(args) == 1
    assert "holds a run, but without --ckpt_path its weights are not looked at" in capsys.readouterr().err
    assert (run / "val_accuracy.json").read_bytes() == before


def test_rankings_that_were_left_out_do_not_shift_the_others(tiny: TinyRuns, labelled: str, tmp_path: Path) -> None:
    lines = Path(labelled).read_text().splitlines(keepends=True)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n" + "".join(lines[:2]) + "no JSON\n" + lines[2])
    extra = ("--data.init_args.val", str(broken), "--data.init_args.on_bad_row", "skip", "--trainer.max_epochs", "1")
    run = tiny.run("reward", "left_out", *extra)
    rows = list(csv.DictReader((run / "val_rankings.csv").open()))
    assert [row["line"] for row in rows] == ["2", "3", "5"]


def test_results_by_hand() -> None:
    results, module = RankingResults(), SimpleNamespace(device=torch.device("cpu"), reduce_sum=lambda x: x)
    prompt = torch.tensor([0, 0, 0, 1, 1])
    pairs = decided_pairs(torch.tensor([1, 2, 2, 2, 1]), prompt)
    results.update([3, 1], torch.tensor([1.0, 0.0, 1.0, 0.5, 0.7]), pairs)  # equal scores are wrong
    results.update(None, torch.zeros(5), pairs)
    right, count = results.totals(module, 5)  # type: ignore[arg-type]
    assert right.tolist() == [0, 1, 0, 1, 0]
    assert count.tolist() == [0, 1, 0, 2, 0]
    assert not any(results.totals(module, 5)[1])  # type: ignore[arg-type]


def test_a_ranking_that_every_process_has_seen_counts_once() -> None:
    def twice(x: Tensor) -> Tensor:
        return 2 * x

    results, module = RankingResults(), SimpleNamespace(device=torch.device("cpu"), reduce_sum=twice)
    results.update([0], torch.tensor([1.0, 0.0]), decided_pairs(torch.tensor([1, 2]), torch.tensor([0, 0])))
    assert [x.tolist() for x in results.totals(module, 1)] == [[1], [1]]  # type: ignore[arg-type]


def test_rankings_of_one_prompt_are_one_cluster() -> None:
    labels = labels_of({"prompt": "p "}, {"prompt": "p"}, {"prompt": "q"})
    ones = torch.ones(3).long().numpy()
    assert slices_of(PairCounts(ones, ones, labels.prompts), labels)["all"]["all"]["prompts"] == 2


def test_the_table_shows_the_largest_and_where_the_others_are() -> None:
    labels = labels_of(*[{"labeler": f"l{i:02d}"} for i in range(MOST + 2)], {"labeler": "l07"})
    ones = torch.ones(len(labels)).long().numpy()
    slices = slices_of(PairCounts(ones, ones, labels.prompts), labels)
    assert len(slices["labeler"]) == MOST + 2
    table = markdown(slices, "val_accuracy.json")
    assert "| l07 | 1.000 |  | 2 | 1 |" in table
    assert "2 smaller ones: see val_accuracy.json" in table
    assert table.count("| labeler |") == MOST + 1
