"""Kill a run again and again at random moments, starting it each time with the same command, until it ends."""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.resume.comparison import differences
from tests.resume.kill_server import KillServer

OVERLAYS = Path(__file__).parent / "overlays"


@dataclass(frozen=True)
class Scenario:
    """A stage's tiny configuration with some of the things that break resuming elsewhere."""

    name: str
    stage: str
    extra: tuple[str, ...] = ()
    """Arguments, where {overlays} stands for the directory of configuration files beside this one, and {root} for that
    of the runs."""


SELECT = ("--config", "{overlays}/select.yaml", "--model.init_args.select.reward_from", "{root}/reward")
"""After it, the reward model that selects."""

SCENARIOS = (
    Scenario("sft-epoch-ends", "sft"),
    Scenario("sft-every-step", "sft", ("--config", "{overlays}/every_step.yaml")),
    Scenario("sft-workers", "sft", ("--config", "{overlays}/every_step.yaml", "--data.init_args.num_workers", "2")),
    Scenario("sft-accumulation-dropout", "sft", ("--config", "{overlays}/accumulation_dropout.yaml")),
    Scenario("reward-epoch-ends", "reward"),
    Scenario("reward-mid-epoch-validation", "reward", ("--config", "{overlays}/mid_epoch_validation.yaml")),
    Scenario("reward-max-steps", "reward", ("--config", "{overlays}/max_steps.yaml")),
    Scenario("ppo-iteration-ends", "ppo"),
    Scenario("ppo-every-step", "ppo", ("--config", "{overlays}/every_step.yaml")),
    Scenario("ppo-accumulation", "ppo", ("--config", "{overlays}/every_step.yaml", "--config", "{overlays}/ppo.yaml")),
    Scenario("ppo-kl-and-average", "ppo", ("--config", "{overlays}/every_step.yaml", "--config", "{overlays}/kl.yaml")),
    Scenario("ppo-budget", "ppo", ("--config", "{overlays}/every_step.yaml", "--config", "{overlays}/budget.yaml")),
    Scenario("ppo-ptx", "ppo_ptx", ("--config", "{overlays}/every_step.yaml", "--config", "{overlays}/ppo.yaml")),
    Scenario("ppo-ptx-two-processes", "ppo_ptx", ("--config", "{overlays}/two_processes.yaml")),
    Scenario(
        "sft-pretraining",
        "ppo_init_sft",
        ("--config", "{overlays}/every_step.yaml", "--data.init_args.num_workers", "2"),
    ),
    Scenario("sft-select", "sft", SELECT),
    Scenario("sft-two-processes", "sft", ("--config", "{overlays}/two_processes.yaml")),
    Scenario("ppo-two-processes", "ppo", ("--config", "{overlays}/two_processes.yaml")),
    Scenario("ppo-stock-checkpoints", "ppo", ("--config", "{overlays}/stock_checkpoints.yaml")),
)


@dataclass
class Outcome:
    """What became of a scenario."""

    scenario: str
    kills: list[str] = field(default_factory=list)
    """Phase in which each kill came."""
    differences: list[str] = field(default_factory=list)
    """Against the uninterrupted run."""


class Bench:
    """The three tiny stages in a directory, and a server to run variants of them in."""

    def __init__(self, root: Path, server: KillServer) -> None:
        self.root, self.server = root, server

    def command(self, scenario: Scenario, run: str) -> list[str]:
        """The command line of a run; the same for its first start and all others."""
        args = ["fit", "--config", f"configs/tiny/{scenario.stage}.yaml"]
        args += [a.format(overlays=OVERLAYS, root=self.root) for a in scenario.extra]
        args += ["--trainer.default_root_dir", str(self.root / run), "--ckpt_path", "last"]
        args += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        if scenario.stage == "reward":
            args += ["--model.init_args.init_from", str(self.root / "sft")]
        if scenario.stage in ("ppo", "ppo_ptx"):
            args += ["--model.init_args.policy_from", str(self.root / "sft")]
            args += ["--model.init_args.reward_from", str(self.root / "reward")]
        return args

    def stages(self) -> None:
        """Train what the scenarios start from."""
        for stage in ("sft", "reward"):
            self.finish(Scenario(stage, stage), stage)

    def finish(self, scenario: Scenario, run: str) -> dict[str, Any]:
        """Run to the end."""
        answer = self.server.run(self.command(scenario, run))
        if answer["status"] != 0:
            raise AssertionError(f"{scenario.name}: status {answer['status']}; see {self.server.log}")
        return answer

    def kill(
        self,
        scenario: Scenario,
        reference: dict[str, Any],
        run: str,
        at_most: int,
        seed: int,
        signum: int = signal.SIGKILL,
    ) -> Outcome:
        """Kill a run up to `at_most` times, let it end, and compare it with the uninterrupted one."""
        rng, outcome = random.Random(seed), Outcome(scenario.name)
        for _ in range(at_most):
            answer = self.server.run(self.command(scenario, run), moment(rng, reference, signum))
            if answer["status"] == 0:
                break
            # A run that was told to stop says so by its status, unless it was still (or no longer) setting up.
            if answer["status"] not in (-signum, 128 + signum):
                outcome.differences.append(f"status {answer['status']} after kills in {outcome.kills}")
                return outcome
            outcome.kills.append(answer["killed_in"])
        else:
            self.finish(scenario, run)
        outcome.differences = differences(self.root / scenario.name, self.root / run)
        if not outcome.differences:
            shutil.rmtree(self.root / run)
        return outcome


def moment(rng: random.Random, reference: dict[str, Any], signum: int) -> dict[str, Any]:
    """A random moment of a run: phases with equal chances, then anywhere within one occurrence, or just after it."""
    counts = {phase: n for phase, n in reference["counts"].items() if n}
    phase = rng.choice(sorted(counts))
    mean = reference["phase_seconds"][phase] / counts[phase]
    nth = rng.randint(1, max(1, counts[phase] // 2))  # later ones are reached by killing the restarted run
    return {"phase": phase, "nth": nth, "delay": rng.uniform(0, 1.2) * mean, "signal": int(signum)}
