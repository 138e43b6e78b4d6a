"""What PPO does with its policy outside training: validation, test and prediction."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.ppo.ema import PolicyEMA, weights_for
from rlhf_lightning.ppo.loop import PPOFitLoop
from rlhf_lightning.ppo.prompts import PromptBatch
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.rollout_metrics import rollout_metrics
from rlhf_lightning.ppo.samples import SampleTable
from rlhf_lightning.ppo.scoring import ScoredRollout
from rlhf_lightning.stage import StageModule

Progress = Callable[[str, int], None]
"""Called with what is being done ("rollout", "scoring") and how much of it was just done."""


class PolicyEvaluation(StageModule):
    """Samples responses to prompts and reports their scores; mixed into the module that trains the policy."""

    samples: SampleTable
    _score_sums: Tensor
    """Number, sum and sum of squares of the scores of a validation or test so far."""
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
        self._score_sums = _no_scores()

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: PromptBatch, batch_idx: int, split: str) -> None:
        # The same random numbers at every validation, so that curves differ by the policy alone.
        with weights_for(self.ema, "evaluate_with"):
            rollout = self.sample(batch, "validation", 0)
            scored = self.score(batch, rollout)
        named = {k.replace("rollout", split): v for k, v in rollout_metrics(rollout, scored).items()}
        # Neither is a mean over responses: how rows fall into batches must change nothing.
        del named[f"{split}/score_std"]
        entropy, tokens = named.pop(f"{split}/entropy"), int(rollout.response_mask.sum())
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(rollout), sync_dist=True)
        self.log(f"{split}/entropy", entropy, on_step=False, on_epoch=True, batch_size=tokens, sync_dist=True)
        scores = scored.scores.double()
        self._score_sums += torch.stack([torch.ones_like(scores), scores, scores**2]).sum(1).cpu()
        self.samples.add(batch.texts, rollout, scored.scores, torch.where(rollout.response_mask, scored.kl, 0.0).sum(1))

    def _log_score_std(self, split: str) -> None:
        """Over all responses of all processes."""
        count, total, squares = self.reduce_sum(self._score_sums.to(self.device)).tolist()
        spread = max(squares / count - (total / count) ** 2, 0.0) ** 0.5 if count else 0.0
        self.log(f"{split}/score_std", spread)
        self._score_sums = _no_scores()

    def on_validation_epoch_end(self) -> None:
        self._log_score_std("val")
        self.samples.write("val/samples")
        if isinstance(self.trainer.fit_loop, PPOFitLoop):
            self.trainer.fit_loop.exclude(time.perf_counter() - self._validation_start)

    def on_test_start(self) -> None:
        self._score_sums = _no_scores()

    def on_test_epoch_end(self) -> None:
        self._log_score_std("test")
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


def _no_scores() -> Tensor:
    return torch.zeros(3, dtype=torch.float64)
