"""Which runs there are, in which order, and that a queue of them loses nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.instructgpt.command import main
from benchmarks.instructgpt.job import Setting
from benchmarks.instructgpt.matrix import Matrix
from benchmarks.instructgpt.plan import Evaluation, Job, Places, needed
from benchmarks.instructgpt.queue import Queue
from benchmarks.instructgpt.real_data import held_out, split_real_data
from benchmarks.instructgpt.real_matrix import real_jobs
from benchmarks.instructgpt.records import write_record
from benchmarks.instructgpt.scale import SCALES
from rlhf_lightning.errors import UserError


def matrix(out: Path, scale: str = "small", device: str = "cpu") -> Matrix:
    return Matrix(SCALES[scale], Places(out), device, (1, 2, 3))


def test_every_job_waits_for_jobs_that_there_are_and_makes_its_own_records(tmp_path: Path) -> None:
    jobs = matrix(tmp_path).jobs() + real_jobs(matrix(tmp_path))
    names = [job.name for job in jobs]
    records = [e.record for job in jobs for e in job.evaluations]
    assert len(set(names)) == len(names)
    assert len(set(records)) == len(records)
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        assert job.after <= by_name.keys()
        assert all(by_name[a].priority <= job.priority for a in job.after)


def test_the_first_results_are_those_of_the_main_claims(tmp_path: Path) -> None:
    everything = frozenset({"ordering", "tax", "beta", "recipe", "selection", "groups"})
    order = [job.name for job in needed(matrix(tmp_path).jobs(), everything)]
    main_ones = [f"{name}-s{s}" for name in ("sft", "reward", "ppo-g0-b0.05", "ppo-g4-b0.05") for s in (1, 2, 3)]
    assert set(order[:15]) == {*main_ones, *(f"starts-s{s}" for s in (1, 2, 3))}


def test_an_experiment_brings_what_it_waits_for_and_nothing_else(tmp_path: Path) -> None:
    names = {job.name for job in needed(matrix(tmp_path).jobs(), frozenset({"selection"}))}
    assert names == {f"{n}-s{s}" for n in ("sft", "reward", "epochs", "selection") for s in (1, 2, 3)}


def test_a_gpu_changes_the_trainer_and_nothing_else(tmp_path: Path) -> None:
    cpu, gpu = (matrix(tmp_path, device=device).ppo(1, 27.8, 0.05, 2).train for device in ("cpu", "cuda"))
    assert "configs/trainer/gpu_bf16.yaml" in gpu
    assert [a for a in gpu if a not in ("--config", "configs/trainer/gpu_bf16.yaml")] == [
        a for a in cpu if a not in ("--config", "--trainer.accelerator", "cpu")
    ]


def test_only_ppo_is_told_how_to_decode(tmp_path: Path) -> None:
    key = "--model.init_args.sampling.cuda_graphs"
    without = replace(matrix(tmp_path), cuda_graphs=False)
    told = {job.name for job in without.jobs() + real_jobs(without) if key in job.train}
    assert told == {
        job.name for job in without.jobs() + real_jobs(without) if "--model.init_args.policy_from" in job.train
    }
    assert not [job.name for job in matrix(tmp_path).jobs() if key in job.train]


def test_all_four_gammas_have_the_same_text_and_another_weight(tmp_path: Path) -> None:
    runs = [matrix(tmp_path).ppo(1, gamma, 0.05, 2).train for gamma in SCALES["small"].gammas]
    weights = {run[run.index("--model.init_args.ptx.coef") + 1] for run in runs}
    assert weights == {"1.0", "4.0", "27.8", "100.0"}
    assert {run[run.index("--model.init_args.ptx.ratio") + 1] for run in runs} == {"2"}
    paper = matrix(tmp_path).paper(1).train
    assert [paper[paper.index(f"--model.init_args.ptx.{k}") + 1] for k in ("coef", "ratio")] == ["27.8", "8"]


# -- the queue, with jobs that only leave their record ------------------------------------------------------


def job(name: str, *after: str) -> Job:
    return Job(name, 0, frozenset({"tax"}), 1, after=frozenset(after), evaluations=(Evaluation(name, "policy", "", 1),))


def leave_record(job: Job, setting: Setting, parent: int) -> None:
    """Stands in for a job; "broken" fails, and "flaky" does the first time."""
    tried = setting.places.out / f"{job.name}.tried"
    first = not tried.exists()
    tried.touch()
    missing = [a for a in job.after if not setting.places.record(a).is_file()]
    if missing or job.name == "broken" or (job.name == "flaky" and first):
        sys.exit(7)
    write_record(setting.places.record(job.name), {"made": not missing})


def queue(out: Path, *jobs: Job) -> Queue:
    setting = Setting(SCALES["tiny"], Places(out), "cpu", 1)
    return Queue(jobs, setting, slots=2, start="fork", target=leave_record)


def test_jobs_wait_for_their_inputs_and_flaky_ones_are_tried_again(tmp_path: Path) -> None:
    finished: list[int] = []
    jobs = queue(tmp_path, job("last", "flaky", "first"), job("flaky", "first"), job("first"))
    assert jobs.run(None, lambda: finished.append(1))
    assert len(finished) == 4
    assert jobs.failures == {"flaky": 1}


def test_what_waits_for_a_failed_job_is_left_and_the_rest_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = queue(tmp_path, job("broken"), job("other"), job("after", "broken"))
    assert not jobs.run(None, lambda: None)
    assert jobs.failures == {"broken": 2}
    assert Places(tmp_path).record("other").is_file()
    assert not Places(tmp_path).record("after").is_file()
    assert "broken FAILED" in capsys.readouterr().out


def test_finished_jobs_are_not_done_again(tmp_path: Path) -> None:
    write_record(Places(tmp_path).record("first"), {"made": "before"})
    assert queue(tmp_path, job("first"), job("second", "first")).run(None, lambda: None)
    assert json.loads(Places(tmp_path).record("first").read_text()) == {"made": "before"}


def test_an_artefact_is_enough_to_begin_with(tmp_path: Path) -> None:
    places, trained = Places(tmp_path), replace(job("first"), train=("fit",))
    jobs = queue(tmp_path, trained, job("second", "first"))
    write_record(places.training("first"), {})
    jobs.running["first"] = None  # type: ignore[assignment]
    found = jobs.next_job()
    assert found is not None
    assert found.name == "second"


def test_a_job_is_done_when_training_and_every_record_are_there(tmp_path: Path) -> None:
    places, one = Places(tmp_path), replace(job("one"), train=("fit",))
    write_record(places.record("one"), {})
    assert not places.is_done(one)
    write_record(places.training("one"), {})
    assert places.is_done(one)


# -- the command line ---------------------------------------------------------------------------------------


def test_another_scale_does_not_mix_into_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "scale.json", {"scale": "small"})
    assert main(["--out", str(tmp_path), "--scale", "tiny", "--summary"]) == 1
    assert "--scale small" in capsys.readouterr().err


def test_real_data_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--only", "real"]) == 1
    assert "--data" in capsys.readouterr().err


def test_the_plan_is_commands_that_a_shell_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--only", "tax", "--seeds", "1", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "python -m rlhf_lightning fit --config configs/quickstart/ppo_ptx.yaml" in shown
    assert '\'[{"function": "benchmarks.instructgpt.gold_reward.gold"' in shown


# -- real data ----------------------------------------------------------------------------------------------


def write_real(directory: Path, rows: int = 60) -> None:
    """Made-up data in the layout of `--data`."""
    made = {
        "demonstrations": lambda i: {"prompt": f"p{i}", "response": "yes"},
        "rankings": lambda i: {"prompt": f"p{i}", "responses": ["a", "bb", "ccc"], "ranks": [1, 2, 2]},
        "comparisons": lambda i: {"prompt": f"p{i}", "chosen": "good", "rejected": "bad"},
        "prompts": lambda i: {"prompt": f"p{i}", "source": "one"},
        "pretrain": lambda i: {"text": f"Once there was a text number {i}, and it was long enough to be read."},
    }
    for name, row in made.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(rows)))


def test_a_prompt_is_on_one_side_of_every_file(tmp_path: Path) -> None:
    write_real(tmp_path)
    split_real_data(tmp_path, tmp_path / "split")
    for name in ("demonstrations", "rankings", "comparisons", "prompts"):
        for side in ("", "_val"):
            rows = [json.loads(line) for line in (tmp_path / "split" / f"{name}{side}.jsonl").read_text().splitlines()]
            assert rows
            assert {held_out(row, "prompt") for row in rows} == {side == "_val"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "prompts.jsonl").unlink(), "has no prompts.jsonl"),
        (lambda d: (d / "prompts.jsonl").write_text("{"), "prompts.jsonl:1: not JSON"),
        (lambda d: (d / "prompts.jsonl").write_text('{"text": "x"}\n'), "row 1 has no 'prompt'"),
        (lambda d: (d / "prompts.jsonl").write_text('{"prompt": "x"}\n'), "too few"),
    ],
)
def test_broken_real_data_is_named(tmp_path: Path, damage: object, message: str) -> None:
    write_real(tmp_path)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        split_real_data(tmp_path, tmp_path / "split")
