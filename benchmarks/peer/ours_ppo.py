"""This project's side of PPO."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from benchmarks.peer.meter import Meter, read_task
from benchmarks.peer.ours_run import optimizer, run, schedule
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptBatch, PromptDataModule
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.scoring import ScoredRollout
from rlhf_lightning.rollouts.settings import SamplingSettings

SPLIT = ("rollout_s", "scoring_s", "update_s")
NO_TOKEN = -1


class GivenResponses(PPOModule):
    """Takes the responses of the task for its own, and keeps their scores."""

    given: list[list[int]]
    scored: ScoredRollout

    def sample(self, batch: PromptBatch, purpose: str, iteration: int, progress: Any = None) -> Rollout:
        ids = torch.tensor(self.given, device=batch.prompt_ids.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        nothing = torch.zeros(ids.shape, device=ids.device)
        return Rollout(batch.prompt_ids, batch.prompt_mask, ids, mask, mask[:, 0].clone(), nothing)

    def score(
        self, batch: PromptBatch, rollout: Rollout, training: bool = False, progress: Any = None
    ) -> ScoredRollout:
        self.scored = super().score(batch, rollout, training, progress)
        return self.scored


class TimeIterations(L.Callback):
    """Times iterations; their metrics are there when the next one begins, or after the last."""

    def __init__(self, meter: Meter, task: dict[str, Any]) -> None:
        self.meter, self.task = meter, task

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:
            self.meter.start()
        else:
            self._end(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        metrics = trainer.callback_metrics
        length = self.task["response_tokens"]
        if float(metrics["rollout/response_tokens"]) != length:
            raise SystemExit(f"error: responses do not all have {length} tokens: the work would not be equal.")
        samples = self.task["batch_size"]
        tokens = self.task["step_prompt_tokens"][len(self.meter.steps)] + samples * length
        split = {name: float(metrics[f"time/{name}"]) for name in SPLIT}
        self.meter.end_step(samples=samples, tokens=tokens, **split)


def main() -> None:
    task = read_task()
    meter = Meter(task["device"])
    module_class = GivenResponses if task["check"] else PPOModule
    module = module_class(
        task["start"],
        task["reward"],
        optimizer=optimizer(task),
        schedule=schedule(),
        sampling=SamplingSettings(max_response_tokens=task["response_tokens"], batch_size=task["batch_size"]),
        num_minibatches=task["minibatches"],
        ppo_epochs=1,
        kl_coef=task["kl_coef"],
        seed=task["seed"],
    )
    module.template.eos_id = NO_TOKEN  # no token ends a response, as on the peer's side
    if isinstance(module, GivenResponses):
        module.given = task["given_responses"]
    data = PromptDataModule(task["ours"], batch_size=task["batch_size"], max_prompt_tokens=task["max_prompt"])
    run(task, module, data, [TimeIterations(meter, task)])
    if isinstance(module, GivenResponses):
        scored, bias = module.scored, float(module.roles.reward_head.bias)
        meter.notes["check"] = {
            "policy_logprobs": scored.logprobs.tolist(),
            "reference_logprobs": scored.ref_logprobs.tolist(),
            # The peer's heads have no bias.
            "values": (scored.values - bias).tolist(),
            "scores": (scored.scores - bias).tolist(),
        }
    meter.write(task["out"])


if __name__ == "__main__":
    main()
