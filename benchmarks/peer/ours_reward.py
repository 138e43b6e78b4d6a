"""This project's side of the reward model."""

from __future__ import annotations

from typing import Any

from benchmarks.peer.meter import Meter, read_task
from benchmarks.peer.ours_run import TimeSteps, optimizer, run, schedule
from rlhf_lightning.reward.data import RankingDataModule
from rlhf_lightning.reward.module import RewardModule


def main() -> None:
    task = read_task()
    meter = Meter(task["device"])
    module = RewardModule(task["start"], optimizer=optimizer(task), schedule=schedule(), seed=task["seed"])
    data = RankingDataModule(
        task["ours"],
        batch_size=task["batch_size"],
        max_prompt_tokens=task["max_prompt"],
        max_response_tokens=task["max_response"],
    )

    def facts(step: int, batch: Any) -> dict[str, float]:
        return {
            "comparisons": task["pairs_per_step"],
            "prompts": task["batch_size"],
            "tokens": task["step_tokens_ours"][step],
        }

    run(task, module, data, [TimeSteps(meter, facts)])
    meter.write(task["out"])


if __name__ == "__main__":
    main()
