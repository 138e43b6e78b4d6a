"""A run that is killed at random moments, and started again with the same command, ends as if it had not been."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.resume.chains import SCENARIOS, SELECT, Bench, Scenario
from tests.resume.comparison import differences, scalars, weights
from tests.resume.kill_server import KillServer

SEED = 20220304
CHAINS = 1
KILLS = 3


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("kills")
    with KillServer(root / "log.txt") as server:
        bench = Bench(root, server)
        bench.stages()
        yield bench


@pytest.fixture(scope="module", params=SCENARIOS, ids=lambda s: s.name)
def uninterrupted(bench: Bench, request: pytest.FixtureRequest) -> tuple[Scenario, dict[str, Any]]:
    scenario: Scenario = request.param
    return scenario, bench.finish(scenario, scenario.name)


def test_killed_runs_end_like_the_uninterrupted_one(
    bench: Bench, uninterrupted: tuple[Scenario, dict[str, Any]]
) -> None:
    """Weights bit for bit, every scalar at every step, and what stage.json records."""
    scenario, reference = uninterrupted
    assert len(weights(bench.root / scenario.name)) > 20
    assert len(scalars(bench.root / scenario.name)) > 20
    for chain in range(CHAINS):
        outcome = bench.kill(scenario, reference, f"{scenario.name}-{chain}", KILLS, SEED + chain)
        assert not outcome.differences, f"killed in {outcome.kills}: {outcome.differences[:5]}"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_run_that_is_told_to_stop_goes_on_later(bench: Bench, stage: str, signum: int) -> None:
    scenario = Scenario(f"{stage}-{signum}", stage)
    reference = bench.finish(scenario, scenario.name)
    outcome = bench.kill(scenario, reference, f"{scenario.name}-stopped", KILLS, SEED, signum)
    assert outcome.kills
    assert not outcome.differences, f"stopped in {outcome.kills}: {outcome.differences[:5]}"


EVERY_CHECKPOINT = [
    Scenario("all-sft", "sft", ("--config", "{overlays}/accumulation_dropout.yaml")),
    Scenario("all-reward", "reward", ("--config", "{overlays}/max_steps.yaml", "--trainer.val_check_interval", "2")),
    Scenario("all-ppo", "ppo", ("--config", "{overlays}/every_step.yaml", "--trainer.max_epochs", "2")),
    Scenario("all-ppo-kl", "ppo", ("--config", "{overlays}/kl.yaml", "--trainer.max_epochs", "2")),
    Scenario("all-ppo-ptx", "ppo_ptx", ("--config", "{overlays}/kl.yaml", "--trainer.max_epochs", "2")),
    Scenario("all-sft-pretraining", "ppo_init_sft", ("--data.init_args.batch_size", "6")),
    Scenario("all-sft-select", "sft", (*SELECT, "--trainer.max_epochs", "2")),
    Scenario("all-ppo-budget", "ppo", ("--config", "{overlays}/budget.yaml")),
]
KEEP_ALL = ("--config", "{overlays}/keep_all.yaml")


@pytest.mark.parametrize("scenario", EVERY_CHECKPOINT, ids=lambda s: s.name)
def test_every_checkpoint_leads_to_the_same_end(bench: Bench, scenario: Scenario) -> None:
    """Step checkpoints of every position: within an epoch, on its last batch, on the run's last step."""
    keeping = Scenario(scenario.name, scenario.stage, (*scenario.extra, *KEEP_ALL))
    bench.finish(keeping, scenario.name)
    files = sorted((bench.root / scenario.name / "lightning").glob("epoch*.ckpt"))
    assert len(files) >= 8
    expected = weights(bench.root / scenario.name)
    for file in files:
        run = f"{scenario.name}-{file.stem}"
        args = bench.command(keeping, run)
        args[args.index("--ckpt_path") + 1] = str(file)
        assert bench.server.run(args)["status"] == 0
        ended = weights(bench.root / run)
        wrong = [name for name in expected if not (ended[name] == expected[name]).all()]
        assert not wrong, f"from {file.name}: {wrong[:3]}"
        assert not stray(bench.root / scenario.name, bench.root / run)


def stray(whole: Path, resumed: Path) -> list[str]:
    """Scalars of a resumed run that the whole run does not have, or has otherwise."""
    known = scalars(whole)
    return [f"{key}: {value}" for key, value in scalars(resumed).items() if known.get(key) != value]


def test_the_comparison_sees_a_difference(bench: Bench) -> None:
    other = Scenario("other", "sft", ("--seed_everything", "2"))
    bench.finish(other, "other")
    lines = differences(bench.root / "sft", bench.root / "other")
    assert any(line.startswith("tensor") for line in lines)
    assert any(line.startswith("scalar") for line in lines)
