"""This project's side of supervised fine-tuning."""

from __future__ import annotations

from typing import Any

from benchmarks.peer.meter import Meter, read_task
from benchmarks.peer.ours_run import TimeSteps, optimizer, run, schedule
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule


def main() -> None:
    task = read_task()
    meter = Meter(task["device"])
    module = SFTModule(
        task["start"],
        lora=None if task["full"] else LoraSettings(),
        optimizer=optimizer(task),
        schedule=schedule(),
        seed=task["seed"],
    )
    data = DemonstrationDataModule(
        task["ours"],
        batch_size=task["batch_size"],
        max_prompt_tokens=task["max_prompt"],
        max_response_tokens=task["max_response"],
        packing=task["packed"],
    )

    def facts(step: int, batch: Any) -> dict[str, float]:
        tokens = int((batch.segments > 0).sum())
        labels = int(batch.weight)
        if not task["packed"] and (tokens, labels) != (task["step_tokens"][step], task["step_labels"][step]):
            raise SystemExit(f"error: step {step} is another batch than the one the peer was given.")
        return {"tokens": tokens, "labels": labels, "samples": int(batch.segments.amax(1).sum())}

    run(task, module, data, [TimeSteps(meter, facts)])
    meter.write(task["out"])


if __name__ == "__main__":
    main()
