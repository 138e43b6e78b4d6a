"""The peer's side of PPO: its trainer with separate reward and value models, in the best configuration it takes."""

from __future__ import annotations

from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as peer
from datasets import Dataset
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.peer.meter import Meter, read_task
from benchmarks.peer.trl_run import TimeSteps, arguments, directory, dtype, finish, rows


class Float32Head(nn.Linear):
    """A scalar head in float32 on hidden states of any type, as on the other side."""

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight)


def policy(task: dict[str, Any]) -> Any:
    """The SFT model as plain weights. The trainer puts a fresh adapter on it, whose absence is the reference."""
    base = AutoModelForCausalLM.from_pretrained(task["base"], dtype=torch.float32)
    return PeftModel.from_pretrained(base, task["start"]).merge_and_unload().to(dtype(task))


def scalar_model(task: dict[str, Any], lora: LoraConfig | None) -> Any:
    """The reward model as plain weights; with `lora` a value model, of which the adapter and the head are trained."""
    pad = AutoTokenizer.from_pretrained(task["reward"]).pad_token_id
    base = AutoModelForSequenceClassification.from_pretrained(
        task["base"], num_labels=1, pad_token_id=pad, dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, task["reward"]).merge_and_unload()
    weight = model.score.weight.detach().clone()
    model = model.to(dtype(task)).requires_grad_(False)
    if lora is not None:
        model = inject_adapter_in_model(lora, model)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
    model.score = Float32Head(weight.shape[1], 1, bias=False)
    model.score.weight = nn.Parameter(weight, requires_grad=lora is not None)
    return model


class Split:
    """Times the parts of an iteration at the functions that the trainer calls: rollout, scoring, update."""

    def __init__(self, meter: Meter, steps: TimeSteps) -> None:
        self.meter, self.steps = meter, steps
        self.rolled = self.updating = 0.0
        self.generate, self.forward = peer.batch_generation, peer.forward
        peer.batch_generation, peer.forward = self.timed_generation, self.watched_forward

    def timed_generation(self, *args: Any, **kwargs: Any) -> Any:
        start = self.meter.now()
        out = self.generate(*args, **kwargs)
        self.rolled, self.updating = self.meter.now(), 0.0
        self.steps.gathered["rollout_s"] = self.rolled - start
        return out

    def watched_forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and not self.updating:  # the first forward of the update
            self.updating = self.meter.now()
            self.steps.gathered["scoring_s"] = self.updating - self.rolled
        return self.forward(*args, **kwargs)


class EndOfIteration(TimeSteps):
    """Adds what is left of an iteration, and what it amounts to."""

    def __init__(self, meter: Meter, task: dict[str, Any]) -> None:
        super().__init__(meter)
        self.task = task
        self.split = Split(meter, self)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        samples, length = self.task["batch_size"], self.task["response_tokens"]
        self.gathered["update_s"] = self.meter.now() - self.split.updating
        self.gathered["samples"] = samples
        self.gathered["tokens"] = self.task["step_prompt_tokens"][len(self.meter.steps)] + samples * length
        super().on_step_end(*args, **kwargs)


def take_given_responses(task: dict[str, Any]) -> dict[str, list[Any]]:
    """Replace generation by the task's responses and the policy's own logits, and keep what is computed of them."""
    kept: dict[str, list[Any]] = {"logprobs": [], "rewards": []}
    log_softmax, get_reward = peer.selective_log_softmax, peer.get_reward

    @torch.no_grad()
    def given(model: Any, queries: Tensor, size: int, pad: int, config: Any) -> tuple[Tensor, Tensor]:
        both = torch.cat([queries, torch.tensor(task["given_responses"], device=queries.device)], dim=1)
        logits = peer.forward(model, both, pad).logits[:, queries.shape[1] - 1 : -1]
        return both, logits

    def kept_log_softmax(logits: Tensor, index: Tensor) -> Tensor:
        found = log_softmax(logits, index)
        kept["logprobs"].append(found.detach().float().tolist())
        return found

    def kept_reward(model: Any, ids: Tensor, pad: int, context: int) -> Any:
        found = get_reward(model, ids, pad, context)
        kept["rewards"].append((found[0][:, context - 1 : -1, 0].tolist(), found[1].tolist()))
        return found

    peer.batch_generation, peer.selective_log_softmax, peer.get_reward = given, kept_log_softmax, kept_reward
    return kept


def main() -> None:
    task = read_task()
    meter = Meter(task["device"])
    kept = take_given_responses(task) if task["check"] else None
    steps = EndOfIteration(meter, task)
    tokenizer = AutoTokenizer.from_pretrained(task["start"], padding_side="left")
    lora: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
    with directory() as trains_in:
        args = PPOConfig(
            **arguments(task, trains_in),
            # One micro-batch holds every row, so that each minibatch is one optimizer step: with the rows in
            # gradient_accumulation_steps instead, Accelerate skips all steps but the last of an iteration.
            per_device_train_batch_size=task["batch_size"],
            gradient_accumulation_steps=1,
            num_mini_batches=task["minibatches"],
            num_ppo_epochs=1,
            total_episodes=task["iterations"] * task["batch_size"],
            local_rollout_forward_batch_size=task["batch_size"],
            response_length=task["response_tokens"],
            temperature=1.0,
            stop_token=None,
            missing_eos_penalty=1.0,
            kl_coef=task["kl_coef"],
            num_sample_generations=0,
        )
        data = Dataset.from_dict(rows(task))
        trainer = PPOTrainer(
            args,
            tokenizer,
            policy(task),
            None,
            scalar_model(task, None),
            data,
            scalar_model(task, LoraConfig(**lora, task_type="SEQ_CLS")),
            eval_dataset=data.select(range(task["batch_size"])),
            callbacks=[steps],
            peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"),
        )
        # The trainer's own loader shuffles; the other side has its order too.
        loader: Any = DataLoader(data, batch_size=task["batch_size"], collate_fn=trainer.data_collator)
        trainer.dataloader = trainer.accelerator.prepare(loader)
        trainer.train()
    if kept is not None:
        meter.notes["check"] = {
            "policy_logprobs": kept["logprobs"][0],
            "reference_logprobs": kept["logprobs"][1],
            "values": kept["rewards"][0][0],
            "scores": kept["rewards"][1][1],
        }
    finish(meter, task, trainer)


if __name__ == "__main__":
    main()
