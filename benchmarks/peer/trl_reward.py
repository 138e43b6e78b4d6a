"""The peer's side of the reward model: a pairwise trainer, given all pairs of every ranking."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from benchmarks.peer.meter import Meter, read_task
from benchmarks.peer.trl_run import TimeSteps, arguments, count_losses, directory, dtype, finish, rows, settle_losses


def load(task: dict[str, Any]) -> Any:
    """The same reward model as on the other side, opened as its README says."""
    pad = AutoTokenizer.from_pretrained(task["start"]).pad_token_id
    base = AutoModelForSequenceClassification.from_pretrained(
        task["base"], num_labels=1, pad_token_id=pad, dtype=dtype(task)
    )
    return PeftModel.from_pretrained(base, task["start"], is_trainable=True)


def facts(inputs: dict[str, Any]) -> dict[str, Any]:
    """Of a batch of pairs."""
    return {"tokens": int(inputs["attention_mask"].sum()), "comparisons": len(inputs["input_ids"]) // 2}


def main() -> None:
    task = read_task()
    meter = Meter(task["device"])
    steps = TimeSteps(meter)
    with directory() as trains_in:
        args = RewardConfig(
            **arguments(task, trains_in),
            per_device_train_batch_size=task["micro_pairs"],
            gradient_accumulation_steps=task["pairs_per_step"] // task["micro_pairs"],
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            max_length=task["max_prompt"] + task["max_response"],
        )
        trainer = RewardTrainer(
            load(task),
            args,
            train_dataset=Dataset.from_dict(rows(task)),
            processing_class=AutoTokenizer.from_pretrained(task["start"]),
            callbacks=[steps],
        )
        count_losses(trainer, steps, facts)
        trainer.train()
    settle_losses(meter, mean=True)
    for step in meter.steps:
        step["prompts"] = task["batch_size"]
    finish(meter, task, trainer)


if __name__ == "__main__":
    main()
