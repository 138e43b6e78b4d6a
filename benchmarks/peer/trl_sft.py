"""The peer's side of supervised fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.peer.meter import Meter, read_task
from benchmarks.peer.trl_run import TimeSteps, arguments, count_losses, directory, dtype, finish, rows, settle_losses


def load(task: dict[str, Any]) -> Any:
    """The model that the other side starts from: the whole base, or the base with the same adapter."""
    if task["full"]:
        return AutoModelForCausalLM.from_pretrained(task["base"], dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(task["base"], dtype=dtype(task))
    return PeftModel.from_pretrained(base, task["start"], is_trainable=True)


def facts(inputs: dict[str, Any]) -> dict[str, Any]:
    """Of a batch, before the trainer sees it."""
    if "attention_mask" in inputs:
        tokens, samples = int(inputs["attention_mask"].sum()), len(inputs["input_ids"])
    else:  # padding-free: one row without padding
        tokens, samples = inputs["input_ids"].numel(), int((inputs["position_ids"] == 0).sum())
    return {"tokens": tokens, "samples": samples, "labels": int((inputs["labels"][:, 1:] != -100).sum())}


def main() -> None:
    task = read_task()
    meter = Meter(task["device"])
    steps = TimeSteps(meter)
    with directory() as trains_in:
        args = SFTConfig(
            **arguments(task, trains_in),
            per_device_train_batch_size=task["batch_size"],
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            max_length=task["max_prompt"] + task["max_response"],
            packing=task["packed"],
        )
        trainer = SFTTrainer(
            load(task),
            args,
            train_dataset=Dataset.from_dict(rows(task)),
            processing_class=AutoTokenizer.from_pretrained(task["base"]),
            callbacks=[steps],
        )
        count_losses(trainer, steps, facts)
        trainer.train()
    settle_losses(meter, mean=False)
    finish(meter, task, trainer)


if __name__ == "__main__":
    main()
