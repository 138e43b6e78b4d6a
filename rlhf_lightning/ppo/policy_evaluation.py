"""What PPO does with its policy outside training: validation, test and prediction."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.ema import PolicyEMA, weights_for
from rlhf_lightning.ppo.loop import PPOFitLoop
from rlhf_lightning.ppo.prompts import PromptBatch
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.rollout_metrics import rollout_metrics
from rlhf_lightning.ppo.samples import SampleTable
from rlhf_lightning.ppo.scoring import ScoredRollout
from rlhf_lightning.stage import StageModule
from rlhf_lightning.text_reward_models import failing_together

Progress = Callable[[str, int], None]
"""Called with what is being done ("rollout", "scoring") and how much of it was just done."""


class PolicyEvaluation(StageModule):
    """Samples responses to prompts and reports their scores; mixed into the module that trains the policy."""

    samples: SampleTable
    _totals: dict[str, tuple[float, float]]
    """Of a validation or test so far: each metric times its weight, and the weights."""
    _failure: UserError | None
    """What a reward of this process said in it; the other processes hear of it at its end."""
    ema: PolicyEMA | None

    def sample(self, batch: PromptBatch, purpose: str, iteration: int, progress: Progress | None = None) -> Rollout:
        """Sample the policy's responses to prompts, with random numbers that depend on the prompts' row numbers."""
        raise NotImplementedError

    def score(
        self, batch: PromptBatch, rollout: Rollout, training: bool = False, progress: Progress | None = None
    ) -> ScoredRollout:
        """Log-probabilities and scores of a rollout; for training also values, and no reference if β is 0."""
        raise NotImplementedError

    def on_validation_start(self) -> None:
        self._validation_start = time.perf_counter()
        self._totals, self._failure = {}, None

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: PromptBatch, split: str) -> None:
        if self._failure is not None:
            return
        try:
            self._add(batch, split)
        except UserError as error:
            if self.trainer.world_size == 1:
                raise
            self._failure = error  # processes have different numbers of batches: no place to ask them before the end

    def _add(self, batch: PromptBatch, split: str) -> None:
        # The same random numbers at every validation, so that curves differ by the policy alone.
        with weights_for(self.ema, "evaluate_with"):
            rollout = self.sample(batch, "validation", 0)
            scored = self.score(batch, rollout)
        named = {k.replace("rollout", split): v for k, v in rollout_metrics(rollout, scored).items()}
        named[f"{split}/score_std"] = float((scored.scores.double() ** 2).mean())  # of squares, until the end
        tokens = float(rollout.response_mask.sum())
        for name, mean in named.items():
            weight = tokens if name == f"{split}/entropy" else float(len(rollout))
            before = self._totals.get(name, (0.0, 0.0))
            self._totals[name] = before[0] + mean * weight, before[1] + weight
        self.samples.add(batch.texts, rollout, scored.scores, torch.where(rollout.response_mask, scored.kl, 0.0).sum(1))

    def _log_means(self, split: str) -> None:
        """Over all responses (entropy: tokens) of all processes: how rows fall into batches changes none of them.

        Not by `log(..., sync_dist=True)`: Lightning 2.6 halves the number of rows to a whole number.

        Raises:
            UserError: A reward failed, on any of the processes.
        """
        with failing_together(self.trainer.strategy):
            if self._failure is not None:
                raise self._failure
        sums = torch.tensor(list(self._totals.values()), dtype=torch.float64, device=self.device)
        means = dict(zip(self._totals, [t / w for t, w in self.reduce_sum(sums).tolist()], strict=True))
        if means:
            squares = means[f"{split}/score_std"]
            means[f"{split}/score_std"] = max(squares - means[f"{split}/score_mean"] ** 2, 0.0) ** 0.5
        self.log_dict(means)

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")
        self.samples.write("val/samples")
        if isinstance(self.trainer.fit_loop, PPOFitLoop):
            self.trainer.fit_loop.exclude(time.perf_counter() - self._validation_start)

    def on_test_start(self) -> None:
        self._totals, self._failure = {}, None

    def on_test_epoch_end(self) -> None:
        self._log_means("test")
        self.samples.write("test/samples")

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Prompt, response, score, kl (nats) and length (tokens) of sampled responses, and rewards by name."""
        with weights_for(self.ema, "evaluate_with"):
            rollout = self.sample(batch, "predict", 0)
            scored = self.score(batch, rollout)
        kl = torch.where(rollout.response_mask, scored.kl, 0.0).sum(1)
        rows = self.samples.rows(batch.texts, rollout, scored.scores, kl)
        parts = {f"reward/{name}": values.tolist() for name, values in scored.rewards.items()}
        return [row | {name: values[i] for name, values in parts.items()} for i, row in enumerate(rows)]
