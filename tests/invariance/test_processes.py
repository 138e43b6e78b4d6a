"""Two processes (gloo) make the steps of one, in every stage, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.chains import SELECT, Bench, Scenario
from tests.resume.comparison import scalars, weights
from tests.resume.kill_server import KillServer

WEIGHTS = 1e-5
"""Absolute, on weights of about 0.1 that move by about 0.05: float32 sums in another order."""
SCALARS = 1e-4
"""Relative."""
BIAS = 1e-3
"""The reward model's bias takes off the mean score of demonstrations; a loss of differences says nothing of it, so
rounding is free to move it."""
SMOOTH = ("--model.init_args.optimizer.eps", "1e-3")
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp_fork")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("processes")
    with KillServer(root / "log.txt") as server:
        bench = Bench(root, server)
        bench.stages()
        yield bench


@pytest.mark.parametrize("stage", ["sft", "ppo_init_sft", "reward", "ppo", "ppo_ptx"])
@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_two_processes_make_the_steps_of_one(bench: Bench, stage: str, accumulate: str) -> None:
    common = (*SMOOTH, "--trainer.accumulate_grad_batches", accumulate)
    one = Scenario(f"{stage}-1-{accumulate}", stage, common)
    two = Scenario(f"{stage}-2-{accumulate}", stage, (*common, *TWO))
    bench.finish(one, one.name)
    bench.finish(two, two.name)
    assert_close(bench.root / one.name, bench.root / two.name)
    if stage == "reward":  # every ranking counts once, whichever process has seen it
        tables = [(bench.root / s.name / "val_rankings.csv").read_text() for s in (one, two)]
        assert tables[0] == tables[1]
        assert len(tables[0].splitlines()) == 1 + 24


@pytest.mark.parametrize("overlay", ["kl", "budget"])
def test_limits_and_averages_are_those_of_one(bench: Bench, overlay: str) -> None:
    """Which minibatches make no step, the coefficient, and when the run ends, are decided over all processes."""
    common = ("--config", "{overlays}/" + f"{overlay}.yaml", *SMOOTH)
    one = Scenario(f"{overlay}-1", "ppo", common)
    two = Scenario(f"{overlay}-2", "ppo", (*common, *TWO))
    bench.finish(one, one.name)
    bench.finish(two, two.name)
    assert_close(bench.root / one.name, bench.root / two.name)
    skipped = [v for (tag, _), v in scalars(bench.root / one.name).items() if tag == "policy/skipped_minibatches"]
    assert any(skipped)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_an_odd_number_of_rows_is_validated_as_by_one(bench: Bench, stage: str, tmp_path: Path) -> None:
    """Lightning's own mean over processes takes half of 9 rows for 4."""
    name = {"sft": "demonstrations", "reward": "rankings", "ppo": "prompts"}[stage]
    rows = Path(f"configs/tiny/data/{name}.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "nine.jsonl").write_text("".join(rows[:9]))
    common = (*SMOOTH, "--data.init_args.val", str(tmp_path / "nine.jsonl"), "--trainer.max_epochs", "1")
    one = Scenario(f"{stage}-odd-1", stage, common)
    two = Scenario(f"{stage}-odd-2", stage, (*common, *TWO))
    bench.finish(one, one.name)
    bench.finish(two, two.name)
    assert_close(bench.root / one.name, bench.root / two.name)


def test_a_reward_that_fails_in_one_process_alone_ends_the_validation_of_both(bench: Bench, tmp_path: Path) -> None:
    """Of three prompts the second process has one. Each says in one line why it ends, and neither waits."""
    prompts = [{"prompt": p} for p in ("One", "Two", "Three")]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    (tmp_path / "broken").touch()
    settings = {"file": str(tmp_path / "broken"), "contains": "Two"}
    reward = json.dumps({"class_path": "tests.ppo.reward_examples.FailsWhere", "init_args": settings})
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.num_sanity_val_steps", "0")
    failing = Scenario("failing", "ppo", (*two, "--data.init_args.val", str(tmp_path / "val.jsonl")))
    command = [*bench.command(failing, failing.name), "--model.init_args.reward", reward]
    ended = subprocess.run(
        [sys.executable, "-m", "rlhf_lightning", *command], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    # Both write at once, so that lines may run into each other.
    assert ended.stderr.count("error: A reward or a score failed on another process") == 1
    assert ended.stderr.count("error: model.init_args.reward: the reward 'FailsWhere' raised KeyError: 'no such") == 1
    assert "for the prompt 'Two'" in ended.stderr


def test_a_batch_that_processes_cannot_share_is_refused(bench: Bench) -> None:
    odd = Scenario("odd-batch", "sft", (*TWO, "--data.init_args.batch_size", "5"))
    before = len(bench.server.log.read_text())
    assert bench.server.run(bench.command(odd, odd.name))["status"] == 1
    assert (
        "data.init_args.batch_size is 5, of all processes together, and 2 of" in bench.server.log.read_text()[before:]
    )


def test_an_error_of_a_forked_process_is_one_line_too(bench: Bench, tmp_path: Path) -> None:
    """Such processes read the data, and hand their errors on as text."""
    (tmp_path / "broken.jsonl").write_text('{"prompt": "Why?", "response": "So."}\n{"prompt": 1, "response": "So."}\n')
    broken = Scenario("broken", "sft", (*TWO, "--data.init_args.train", str(tmp_path / "broken.jsonl")))
    before = len(bench.server.log.read_text())
    assert bench.server.run(bench.command(broken, "broken"))["status"] == 1
    said = bench.server.log.read_text()[before:]
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "broken.jsonl, line 2: `prompt` is a number" in errors[0]


@pytest.mark.parametrize("count", [9, 1])
def test_predictions_of_two_processes_are_in_the_order_of_the_data(bench: Bench, tmp_path: Path, count: int) -> None:
    rows = Path("configs/tiny/data/rankings.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(rows[:count]))
    val = ("--data.init_args.val", str(tmp_path / "rows.jsonl"), "--data.init_args.val_batch_size", "2")
    found = []
    for more in ((), TWO):
        command = bench.command(Scenario("reward", "reward", (*val, *more)), "reward")
        assert bench.server.run(["predict", *command[1:]])["status"] == 0
        found.append([json.loads(line) for line in (bench.root / "reward" / "predictions.jsonl").open()])
    one, two = found
    assert len(one) == count
    assert [r["responses"] for r in one] == [r["responses"] for r in two]
    for a, b in zip(one, two, strict=True):
        assert a["scores"] == pytest.approx(b["scores"], abs=1e-5)


def test_two_processes_choose_as_one(bench: Bench) -> None:
    """Prompts are shared out, and scores added up: 9 prompts, of which one process has 5."""
    common = (*SELECT, *SMOOTH, "--trainer.max_epochs", "2")
    one = Scenario("select-1", "sft", common)
    two = Scenario("select-2", "sft", (*common, *TWO))
    bench.finish(one, one.name)
    bench.finish(two, two.name)
    assert_close(bench.root / one.name, bench.root / two.name)


def assert_close(run: Path, other: Path) -> None:
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys()
    apart = {name: float((one[name] - two[name]).abs().max()) for name in one}
    assert apart.pop("scalar_head.safetensors:bias", 0.0) < BIAS
    assert max(apart.values()) < WEIGHTS, max(apart, key=lambda n: apart[n])
    a, b = scalars(run), scalars(other)
    assert a.keys() == b.keys()
    wrong = [k for k in a if abs(a[k] - b[k]) > SCALARS * max(1.0, abs(a[k]))]
    assert not wrong, [(k, a[k], b[k]) for k in wrong[:5]]
