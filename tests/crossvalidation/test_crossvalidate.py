"""The whole command on the tiny model: folds, kills, reports and refusals."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_lightning.cli import main
from rlhf_lightning.crossvalidation.command import CrossValidation, cross_validate
from rlhf_lightning.crossvalidation.outcomes import FoldCounts, read_counts, summarize
from rlhf_lightning.crossvalidation.stage_runs import run_process
from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.loading import load
from rlhf_lightning.pair_accuracy import PairCounts, accuracy
from tests.conftest import TINY, TinyRuns
from tests.resume.comparison import differences
from tests.resume.kill_server import KillServer

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
STOPPED = 77
LABELERS = (("ada", "one"), ("ben", "one"), ("cy", "two"))


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny rankings, each by two of three labelers; the third likes what the others dislike."""
    rows = [json.loads(line) for line in (TINY / "data" / "rankings.jsonl").open()]
    path = tmp_path_factory.mktemp("labelled") / "rankings.jsonl"
    labelled = [
        row | {"labeler": name, "labeler_group": group, "ranks": [-r % 9 if name == "cy" else r for r in row["ranks"]]}
        for i, row in enumerate(rows)
        for j, (name, group) in enumerate(LABELERS)
        if (i + j) % 3
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillServer]:
    with KillServer(tmp_path_factory.mktemp("server") / "log.txt") as server:
        yield server


class Runner:
    """Runs stages in forked processes, counts them, and kills one of them."""

    def __init__(self, server: KillServer, kill_at: int | None = None, most: int = 99) -> None:
        self.server, self.kill_at, self.most = server, kill_at, most
        self.commands: list[str] = []

    def __call__(self, args: Sequence[str]) -> int:
        if len(self.commands) == self.most:
            return STOPPED
        self.commands.append(args[0])
        kill = {"phase": "update", "nth": 2, "delay": 0.0} if len(self.commands) == self.kill_at else None
        return int(self.server.run(list(args), kill)["status"])


def stage_args(tiny: TinyRuns, rankings: Path, *extra: str) -> list[str]:
    args = ["--config", str(TINY / "reward.yaml"), "--model.init_args.init_from", str(tiny.root / "sft"), *QUIET]
    return [*args, "--data.init_args.train", str(rankings), "--data.init_args.val", "null", *extra]


def test_killed_and_resumed_gives_the_same_report(
    tiny: TinyRuns, rankings: Path, server: KillServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = stage_args(tiny, rankings, "--trainer.max_epochs", "1")
    whole, cut = (CrossValidation(str(tmp_path / name), folds=2) for name in ("whole", "cut"))
    assert cross_validate(whole, args, Runner(server)) == 0
    table = capsys.readouterr().out
    killed = Runner(server, kill_at=2)
    assert cross_validate(cut, args, killed) == -signal.SIGKILL
    assert killed.commands == ["fit", "fit"]
    assert not (tmp_path / "cut" / "crossvalidation.json").exists()
    again = Runner(server)
    assert cross_validate(cut, args, again) == 0
    assert again.commands == ["fit"]  # the finished fold is not run again
    one, other = (json.loads((tmp_path / name / "crossvalidation.json").read_text()) for name in ("whole", "cut"))
    assert one == other
    assert cross_validate(cut, args, again) == 0  # nothing left to do but the report
    assert again.commands == ["fit"]
    assert not differences(*(tmp_path / name / "fold2" / "seed1" for name in ("whole", "cut")))
    check_report(tmp_path / "whole", one)
    assert one["mean"]["gap"]["value"] > 0.1  # somebody likes what the others dislike
    assert "| InstructGPT, §4.1 | 72.4 ± 0.4 | 69.6 ± 0.9 | 2.8 |" in table
    # The settings may not change under finished folds.
    assert main(["crossvalidate", "--out", cut.out, "--folds", "2", *args, "--trainer.max_epochs", "2"]) == 1
    assert "stage.trainer.max_epochs: 1 -> 2" in capsys.readouterr().err


def check_report(root: Path, report: dict[str, Any]) -> None:
    """Against the rows themselves and the files of the runs."""
    for number, (fold, group) in enumerate(zip(report["folds"], report["plan"]["groups"], strict=True), start=1):
        train, val = (load(Ranking, str(root / f"fold{number}" / f"{s}.jsonl"), "").rows for s in ("train", "val"))
        assert not {row.labeler for row in train} & group.keys()
        assert not {row.prompt for row in train} & {row.prompt for row in val}
        slices = json.loads((root / f"fold{number}" / "seed1" / "val_accuracy.json").read_text())["labeler"]
        for name, names in (("held_out", group.keys()), ("training", slices.keys() - group.keys())):
            pairs = sum(slices[n]["pairs"] for n in names)
            assert fold[name]["pairs"] == pairs
            assert fold[name]["value"] == pytest.approx(
                sum(slices[n]["pairs"] * slices[n]["accuracy"] for n in names) / pairs
            )
        assert fold["gap"]["value"] == pytest.approx(fold["training"]["value"] - fold["held_out"]["value"])
    assert report["mean"]["training"]["value"] == pytest.approx(
        np.mean([f["training"]["value"] for f in report["folds"]])
    )


def test_a_partial_validation_is_made_whole(tiny: TinyRuns, rankings: Path, server: KillServer, tmp_path: Path) -> None:
    args = stage_args(tiny, rankings, "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1")
    settings = CrossValidation(str(tmp_path), folds=2)
    runner = Runner(server, most=2)
    assert cross_validate(settings, args, runner) == STOPPED
    assert runner.commands == ["fit", "validate"]
    run = tmp_path / "fold1" / "seed1"
    lines = [(d / "val_rankings.csv").read_text().splitlines() for d in (run, run / "evaluation")]
    assert len(lines[1]) == 1 + len((tmp_path / "fold1" / "val.jsonl").read_text().splitlines())
    assert lines[0] == lines[1][: len(lines[0])]  # the weights are those of the training's end
    assert cross_validate(settings, args, runner) == STOPPED  # at the second fold
    assert runner.commands == ["fit", "validate"]


class Pretended:
    """In place of a stage: writes what a finished run leaves, with results drawn from its seed."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(self, args: Sequence[str]) -> int:
        given = dict(itertools.pairwise(args))
        seed, run = int(given["--seed_everything"]), Path(given["--trainer.default_root_dir"])
        rows, rng = load(Ranking, given["--data.init_args.val"], "").rows, random.Random(seed)
        self.seeds.append(seed)
        (run / "final").mkdir(parents=True)
        (run / "final" / "stage.json").write_text("{}")
        (run / "val_accuracy.json").write_text('{"last_step": true}')
        lines = [f"{row.prompt},{row.labeler},{row.labeler_group},1,{rng.randint(0, 1)}" for row in rows]
        (run / "val_rankings.csv").write_text("\n".join(["prompt,labeler,labeler_group,pairs,right", *lines, ""]))
        return 0


def test_seeds_may_be_added_and_groups_be_the_rows_own(tiny: TinyRuns, rankings: Path, tmp_path: Path) -> None:
    args, run = stage_args(tiny, rankings, "--seed_everything", "5"), Pretended()

    def report(seeds: int) -> dict[str, Any]:
        settings = CrossValidation(str(tmp_path), folds=2, by="labeler_group", seeds=seeds)
        assert cross_validate(settings, args, run) == 0
        return json.loads((tmp_path / "crossvalidation.json").read_text())  # type: ignore[no-any-return]

    one, three = report(1), report(3)
    assert run.seeds == [5, 5, 6, 7, 6, 7]  # the first of each fold is not run again
    assert [list(group) for group in three["plan"]["groups"]] == [["one"], ["two"]]
    assert one["over_seeds"] is None
    assert three["over_seeds"]["gap"] > 0
    assert three["folds"][0]["held_out"]["pairs"] == 3 * one["folds"][0]["held_out"]["pairs"]
    assert three["folds"][0]["held_out"]["prompts"] == one["folds"][0]["held_out"]["prompts"]
    assert "standard deviation of seeds" in (tmp_path / "crossvalidation.md").read_text()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            ["--folds", "4"],
            "folds: is 4, but the rankings name only 3 different `labeler` (ada, ben, cy). Give --folds 3.",
        ),
        (["--folds", "1"], "folds: is 1"),
        (["--by", "labeler_group", "--folds", "3"], "only 2 different `labeler_group`"),
        (
            ["--folds", "2", "--data.init_args.val", "TRAIN"],
            "fold 1, which holds out ada, has no rankings to train on",
        ),
        (["--folds", "2", "--data.init_args.train", "configs/tiny/data/prompts.jsonl"], "`responses` is missing"),
        (["--folds", "2", "--held_out", "1"], "held_out"),
        (["--folds", "2", "--seeds", "3", "--model.init_args.seed", "1"], "model.init_args.seed"),
        (["--folds", "2", "--ckpt_path", "last"], "--ckpt_path: every fold sets it itself"),
        (["--folds", "2", "--model.init_args.init_from", "nowhere"], "model.init_args.init_from"),
        (["--folds", "2", "--fold", "3"], "--fold"),
    ],
)
def test_what_is_wrong_is_said_before_any_training(
    tiny: TinyRuns, rankings: Path, tmp_path: Path, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = [str(rankings) if word == "TRAIN" else word for word in extra]
    assert main(["crossvalidate", "--out", str(tmp_path / "out"), *stage_args(tiny, rankings), *extra]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not (tmp_path / "out" / "fold1").exists()


def test_another_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crossvalidate", "--out", str(tmp_path), "--config", "configs/tiny/sft.yaml"]) == 1
    assert "data.class_path: is rlhf_lightning.sft.data" in capsys.readouterr().err


def test_help_says_where_the_other_options_go(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["crossvalidate", "--help"])
    out = capsys.readouterr().out
    assert "are those of `fit`" in out
    assert "--folds" in out


def test_a_stage_that_fails_ends_the_command_with_its_status(tiny: TinyRuns, rankings: Path, tmp_path: Path) -> None:
    assert cross_validate(CrossValidation(str(tmp_path), folds=2), stage_args(tiny, rankings), lambda _: 7) == 7


def test_processes_give_their_status_and_get_our_signals() -> None:
    def python(code: str) -> Callable[[], int]:
        return lambda: run_process([], [sys.executable, "-c", code])

    assert python("raise SystemExit(3)")() == 3
    assert python("import os; os.kill(os.getpid(), 9)")() == 128 + 9
    wait = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); time.sleep(20)"
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    before, start = signal.getsignal(signal.SIGTERM), time.monotonic()
    assert python(wait)() == 143
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGTERM) == before


def counts(right: list[int], prompts: list[str]) -> PairCounts:
    return PairCounts(np.array(right), np.full(len(right), 2), np.array(prompts))


def test_rankings_go_to_the_side_of_their_labeler(tmp_path: Path) -> None:
    lines = ["prompt,labeler,labeler_group,pairs,right", "p,ada,one,3,2", "p,cy,two,1,0", "q,ben,one,2,2"]
    (tmp_path / "val_rankings.csv").write_text("\n".join([*lines, ""]))
    found = read_counts(tmp_path, "labeler_group", ["two"])
    assert (found.training.right.tolist(), found.training.prompt.tolist()) == ([2, 2], ["p", "q"])
    assert (found.held_out.pairs.tolist(), found.held_out.prompt.tolist()) == ([1], ["p"])


def test_means_over_folds_and_seeds_by_hand() -> None:
    one = FoldCounts(counts([2, 2, 0, 0], ["p", "q", "r", "s"]), counts([2, 0], ["p", "q"]))
    two = FoldCounts(counts([2, 2, 2, 0], ["p", "q", "r", "s"]), counts([0, 0], ["r", "s"]))
    found = summarize([[one, one], [two, one]])
    assert found.mean.training.value == pytest.approx((0.5 + 0.5 + 0.75 + 0.5) / 4)
    assert found.mean.held_out.value == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)
    assert found.mean.gap.value == pytest.approx(found.mean.training.value - found.mean.held_out.value)
    assert [fold.gap.value for fold in found.folds] == pytest.approx([0, 0.375])
    assert found.over_folds["gap"] == pytest.approx(0.375 / 2)  # two numbers: half of their distance
    assert found.over_seeds is not None
    assert found.over_seeds["training"] == pytest.approx(0.125 / 2**0.5)
    # The same training twice is no second observation of its prompts.
    assert found.folds[0].training.error == pytest.approx(accuracy(one.training).error)


@pytest.mark.slow
def test_the_real_command(tiny: TinyRuns, rankings: Path, tmp_path: Path) -> None:
    args = stage_args(tiny, rankings, "--trainer.max_epochs", "1")
    assert main(["crossvalidate", "--out", str(tmp_path / "out"), "--folds", "3", *args]) == 0
    assert "**mean of folds**" in (tmp_path / "out" / "crossvalidation.md").read_text()
    shutil.rmtree(tmp_path / "out")
