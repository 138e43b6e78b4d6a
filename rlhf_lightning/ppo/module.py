"""The PPO module: the loop in `loop` calls `collect` once an iteration and Lightning calls `training_step`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf_lightning.artefacts import open_source
from rlhf_lightning.errors import UserError
from rlhf_lightning.generation import SamplingSettings
from rlhf_lightning.masked import masked_mean, whiten
from rlhf_lightning.models.backbone import load_tokenizer
from rlhf_lightning.models.building import base_dtype, save_adapter, save_full
from rlhf_lightning.models.limits import load_limits
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.ppo.advantages import gae
from rlhf_lightning.ppo.bounds import check_bounds
from rlhf_lightning.ppo.buffer import Experience, MicroBatch, explained_variance
from rlhf_lightning.ppo.kl import kl_k1
from rlhf_lightning.ppo.loop import PPOFitLoop
from rlhf_lightning.ppo.loss import policy_loss, value_loss
from rlhf_lightning.ppo.prompts import PromptBatch
from rlhf_lightning.ppo.rewards import penalize_missing_eos, token_rewards
from rlhf_lightning.ppo.roles import POLICY_KEY, REWARD_KEY, Roles, check_same_tokenizer
from rlhf_lightning.ppo.rollout import Rollout, sample_rollout
from rlhf_lightning.ppo.samples import SampleTable
from rlhf_lightning.ppo.scoring import ScoredRollout, score_rollout
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.stage import StageModule, StageSettings

Progress = Callable[[str, int], None]


class PPOModule(StageModule):
    """Optimizes a policy against a reward model, with a per-token KL penalty to the SFT model it starts from."""

    stage: ClassVar[str] = "ppo"

    def __init__(
        self,
        policy_from: str,
        reward_from: str,
        lora: LoraSettings | None = LoraSettings(),  # noqa: B008 (frozen)
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008
        schedule: ScheduleSettings = ScheduleSettings("constant", warmup=80),  # noqa: B008
        value_lr: float | None = None,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
        num_minibatches: int = 8,
        ppo_epochs: int = 1,
        kl_coef: float = 0.02,
        clip_range: float = 0.2,
        value_clip_range: float | None = 0.2,
        value_coef: float = 1.0,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        missing_eos_penalty: float = 1.0,
        scoring_batch_size: int = 16,
        pad_token: str | None = None,
        seed: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """
        Args:
            policy_from: SFT artefact the policy starts from; a frozen copy of it is the KL reference.
            reward_from: Reward artefact; the value function starts as a copy of it (C.4).
            lora: Low-rank adapters for policy and value on one frozen base; null trains copies of all weights.
            optimizer: AdamW; `lr` is the policy's (C.4 does not print the paper's final one).
            schedule: Constant after a warmup over the first 10 iterations of 8 steps, from a tenth (C.4).
            value_lr: Learning rate of the value function; by default the policy's. C.4: 9e-6, its own.
            sampling: Length limit, temperature and decoding batch of the rollout.
            num_minibatches: Optimizer steps of one pass over an iteration's rollout (C.4: 512 / 64 = 8).
            ppo_epochs: Passes over an iteration's rollout (C.4: 1).
            kl_coef: β, weight of the KL penalty (C.4: 0.02).
            clip_range: Ratio clipping (C.4: 0.2).
            value_clip_range: Value clipping, score units; null for none. Not stated; 0.2 as the predecessors.
            value_coef: Weight of the value loss; with separate parameters and Adam it hardly matters.
            gamma: Discount (C.4: none).
            gae_lambda: Not stated; 0.95 as in Stiennon et al. (arXiv 2009.01325).
            missing_eos_penalty: Subtracted from the score of a response without EOS. Not stated.
            scoring_batch_size: Rows of a forward when a rollout is scored; changes no result but by rounding.
            pad_token: Token for padding where the tokenizer has none or uses EOS.
            seed: By default `seed_everything`.
            trust_remote_code: Run code that comes with the model. Only for authors you trust.
        """
        source = open_source(policy_from, POLICY_KEY, expect=("sft", "ppo"))
        self.reward_source = open_source(reward_from, REWARD_KEY, expect=("reward",))
        settings = StageSettings(lora, optimizer, schedule, pad_token, "{prompt}", None, seed, trust_remote_code)
        super().__init__(source, POLICY_KEY, settings)
        check_same_tokenizer(
            source,
            self.reward_source,
            self.template.tokenizer,
            load_tokenizer(self.reward_source.tokenizer, pad_token, REWARD_KEY, trust_remote_code),
        )
        self.value_lr = value_lr
        self.sampling = sampling
        self.num_minibatches, self.ppo_epochs = num_minibatches, ppo_epochs
        self.kl_coef, self.missing_eos_penalty = kl_coef, missing_eos_penalty
        self.clip_range, self.value_clip_range, self.value_coef = clip_range, value_clip_range, value_coef
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.scoring_batch_size = scoring_batch_size
        check_bounds(self)
        reward_limits = load_limits(self.reward_source.model, REWARD_KEY, trust_remote_code)
        self.limits = self.limits.both(reward_limits, sampling.max_response_tokens)
        self.samples = SampleTable(self)

    # -- set-up -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if stage == "fit":
            PPOFitLoop.attach(self.trainer)

    def configure_model(self) -> None:
        if not hasattr(self, "roles"):
            self.roles = Roles(
                self.source,
                self.reward_source,
                self.lora,
                base_dtype(self.precision, self.lora),
                self.trust_remote_code,
            )

    def train(self, mode: bool = True) -> PPOModule:
        """Dropout stays off in PPO: the update must see the policy that sampled (N+ details, 7)."""
        super().train(mode)
        if hasattr(self, "roles"):
            self.roles.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        policy = {id(p) for p in self.roles.backbone("policy").parameters()}
        groups: dict[str, list[Any]] = {"policy": [], "value": []}
        for name, parameter in self.trainable().items():
            own = id(parameter) in policy and (self.lora is None or ".policy." in name)
            groups["policy" if own else "value"].append(parameter)
        lr = self.optimizer_settings.lr
        return [
            {"params": groups["policy"], "lr": lr, "name": "policy"},
            {"params": groups["value"], "lr": lr if self.value_lr is None else self.value_lr, "name": "value"},
        ]

    # -- one iteration ------------------------------------------------------------------------------------

    def sample(self, batch: PromptBatch, purpose: str, iteration: int, progress: Progress | None = None) -> Rollout:
        """Sample the policy's responses to prompts."""
        seed = (self.seed, purpose, iteration, self.global_rank)
        on_token = (lambda n: progress("rollout", n)) if progress else None
        eos_id, pad_id = self.template.eos_id, self.template.tokenizer.pad_token_id
        backbone, adapter = self.roles.backbone("policy"), self.roles.adapter("policy")
        return sample_rollout(backbone, adapter, batch, self.sampling, seed, eos_id, pad_id, on_token)

    def score(self, rollout: Rollout, with_values: bool = True, progress: Progress | None = None) -> ScoredRollout:
        """Log-probabilities, values and scores of a rollout."""
        on_rows = (lambda n: progress("scoring", n)) if progress else None
        temperature = self.sampling.temperature or 1.0
        return score_rollout(self.roles, rollout, temperature, self.scoring_batch_size, with_values, on_rows)

    @torch.no_grad()
    def collect(self, batch: PromptBatch, iteration: int, progress: Progress) -> tuple[Experience, dict[str, float]]:
        """Roll out, score and estimate advantages: everything of an iteration before its update.

        Returns:
            The experience, and the iteration's `rollout/*`, `value/*` and `time/*` metrics.
        """
        start = time.perf_counter()
        with self.trainer.precision_plugin.forward_context():
            rollout = self.sample(batch, "rollout", iteration, progress)
            rolled = time.perf_counter()
            scored = self.score(rollout, progress=progress)
        mask = rollout.response_mask
        kl = kl_k1(scored.logprobs, scored.ref_logprobs)
        scores = penalize_missing_eos(scored.scores, rollout.truncated, self.missing_eos_penalty)
        rewards = token_rewards(scores, kl, mask, self.kl_coef)
        advantages, returns = gae(rewards, scored.values, mask, self.gamma, self.gae_lambda)
        advantages = whiten(advantages, mask, reduce=self._sum)
        metrics = self._rollout_metrics(rollout, scored, kl)
        metrics["value/explained_variance"] = explained_variance(scored.values, returns, mask)
        averaged = {k: self._sum(v.double()).item() / self.trainer.world_size for k, v in metrics.items()}
        seconds = {"time/rollout_s": rolled - start, "time/scoring_s": time.perf_counter() - rolled}
        return Experience(rollout, scored.logprobs, scored.values, advantages, returns), averaged | seconds

    def _sum(self, x: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(x.clone(), reduce_op="sum")  # type: ignore[return-value]

    def _rollout_metrics(self, rollout: Rollout, scored: ScoredRollout, kl: Tensor) -> dict[str, Tensor]:
        mask = rollout.response_mask
        return {
            "rollout/score_mean": scored.scores.mean(),
            "rollout/score_std": scored.scores.std(unbiased=False),
            "rollout/kl": torch.where(mask, kl, 0.0).sum(1).mean(),
            "rollout/response_tokens": mask.sum(1).float().mean(),
            "rollout/eos_rate": 1 - rollout.truncated.float().mean(),
            "rollout/entropy": masked_mean(scored.entropy, mask),
        }

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        data, mask = batch.experience, batch.experience.rollout.response_mask
        new_logprobs, _ = self.roles.logprobs("policy", data.rollout, self.sampling.temperature or 1.0)
        new_values = self.roles.values(data.rollout)
        tokens = batch.num_tokens
        loss_p = policy_loss(new_logprobs, data.logprobs, data.advantages, mask, self.clip_range, tokens)
        loss_v = value_loss(new_values, data.values, data.returns, mask, self.value_clip_range, tokens)
        self._log_update(new_logprobs.detach(), loss_p.detach(), loss_v.detach(), batch)
        # Lightning averages over micro-batches and processes; the losses are already shares of one sum.
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return (loss_p + self.value_coef * loss_v) * parts

    def _log_update(self, new_logprobs: Tensor, loss_p: Tensor, loss_v: Tensor, batch: MicroBatch) -> None:
        mask = batch.experience.rollout.response_mask
        log_ratio = torch.where(mask, new_logprobs - batch.experience.logprobs, 0.0)
        ratio = log_ratio.exp()
        own = int(mask.sum())
        share = batch.num_tokens / max(own, 1)
        means = {
            "policy/loss": loss_p * share,
            "policy/approx_kl": 0.5 * masked_mean(log_ratio**2, mask),
            "policy/clip_frac": masked_mean(((ratio - 1).abs() > self.clip_range).float(), mask),
            "value/loss": loss_v * share,
        }
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=own)
        self.log("policy/ratio_max", ratio.max(), on_step=False, on_epoch=True, reduce_fx="max", batch_size=own)

    def on_train_epoch_end(self) -> None:
        metrics = self.ppo_loop.finished_metrics()
        rates = {f"lr/{g['name']}": g["lr"] for g in self.trainer.optimizers[0].param_groups}
        self.log_dict(metrics | rates | {"kl_coef": self.kl_coef}, batch_size=1)
        shown = {k.split("/")[1]: metrics[k] for k in ("rollout/score_mean", "rollout/kl")}
        self.log_dict(shown, prog_bar=True, logger=False, batch_size=1)

    @property
    def ppo_loop(self) -> PPOFitLoop:
        """The loop of this run.

        Raises:
            UserError: The trainer runs its stock loop.
        """
        if not isinstance(self.trainer.fit_loop, PPOFitLoop):
            raise UserError("PPOModule needs PPOFitLoop; call PPOFitLoop.attach(trainer) if you override setup().")
        return self.trainer.fit_loop

    # -- evaluation ---------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        self._validation_start = time.perf_counter()

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def _evaluate(self, batch: PromptBatch, batch_idx: int, split: str) -> None:
        # The same random numbers at every validation, so that curves differ by the policy alone.
        rollout = self.sample(batch, "validation", batch_idx)
        scored = self.score(rollout, with_values=False)
        kl = kl_k1(scored.logprobs, scored.ref_logprobs)
        metrics = self._rollout_metrics(rollout, scored, kl)
        named = {k.replace("rollout", split): v for k, v in metrics.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(rollout))
        self.samples.add(batch.texts, rollout, scored.scores, torch.where(rollout.response_mask, kl, 0.0).sum(1))

    def on_validation_epoch_end(self) -> None:
        self.samples.write("val/samples")
        if isinstance(self.trainer.fit_loop, PPOFitLoop):
            self.trainer.fit_loop.exclude(time.perf_counter() - self._validation_start)

    def on_test_epoch_end(self) -> None:
        self.samples.write("test/samples")

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Prompt, response, score, kl (nats) and length (tokens) of sampled responses."""
        rollout = self.sample(batch, "predict", batch_idx)
        scored = self.score(rollout, with_values=False)
        kl = torch.where(rollout.response_mask, kl_k1(scored.logprobs, scored.ref_logprobs), 0.0).sum(1)
        return self.samples.rows(batch.texts, rollout, scored.scores, kl)

    def save_weights(self, directory: Path) -> None:
        if self.lora:
            save_adapter(directory, self.roles.backbone("policy"), "policy", self.source.model)
        else:
            save_full(directory, self.roles.backbone("policy"))
