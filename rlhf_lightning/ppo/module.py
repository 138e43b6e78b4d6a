"""The PPO module: the loop in `loop` calls `collect` once an iteration and Lightning calls `training_step`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf_lightning.artefacts import open_source, source_fingerprint
from rlhf_lightning.fitting.loops import StageFitLoop
from rlhf_lightning.masked import whiten
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.building import base_dtype, save_adapter, save_full
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.ppo.advantages import gae
from rlhf_lightning.ppo.bounds import check_bounds, check_engine
from rlhf_lightning.ppo.buffer import Experience, MicroBatch, explained_variance
from rlhf_lightning.ppo.ema import EMASettings, PolicyEMA
from rlhf_lightning.ppo.ending import DEFAULT_PENALTY, Ending, EndingSettings, ending_metrics
from rlhf_lightning.ppo.kl_control import KLControl, no_loss
from rlhf_lightning.ppo.kl_settings import KLSettings
from rlhf_lightning.ppo.loop import PPOFitLoop
from rlhf_lightning.ppo.loss import policy_loss, value_loss
from rlhf_lightning.ppo.policy_evaluation import Progress
from rlhf_lightning.ppo.policy_steps import PolicySteps
from rlhf_lightning.ppo.prompts import PromptBatch
from rlhf_lightning.ppo.ptx import PtxSettings
from rlhf_lightning.ppo.ptx_update import PtxUpdate
from rlhf_lightning.ppo.reward_sum import Rewards
from rlhf_lightning.ppo.reward_terms import RewardFunction, RewardTerm
from rlhf_lightning.ppo.rewards import token_rewards
from rlhf_lightning.ppo.roles import POLICY_KEY, REWARD_KEY, TRAINED, Roles, check_reward_model
from rlhf_lightning.ppo.rollout import Rollout, sample_rollout
from rlhf_lightning.ppo.rollout_metrics import mismatch_metrics, require_finite, rollout_metrics
from rlhf_lightning.ppo.samples import SampleTable
from rlhf_lightning.ppo.scoring import ScoredRollout, score_rollout
from rlhf_lightning.ppo.update_metrics import UpdateMetrics
from rlhf_lightning.rollouts.choice import build_engine
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.stage import StageSettings
from rlhf_lightning.text_reward_models import failing_together


class PPOModule(PolicySteps):
    """Optimizes a policy against a reward model, with a per-token KL penalty to the SFT model it starts from."""

    stage: ClassVar[str] = "ppo"
    fit_loop_class: ClassVar[type[StageFitLoop]] = PPOFitLoop

    def __init__(
        self,
        policy_from: str,
        reward_from: str | None = None,
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
        missing_eos_penalty: float = DEFAULT_PENALTY,
        reward: list[RewardTerm] | RewardFunction | None = None,
        reward_weight: float = 1.0,
        ending: EndingSettings = EndingSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        ema: EMASettings | None = None,
        ptx: PtxSettings = PtxSettings(),  # noqa: B008
        memory: MemorySettings = MemorySettings(),  # noqa: B008
        pad_token: str | None = None,
        seed: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """
        Args:
            policy_from: SFT artefact the policy starts from; a frozen copy of it is the KL reference.
            reward_from: Reward artefact that reads the policy's tokens; the value function starts as a copy of it
                (C.4). Without one, as the SFT model with a head of zeros.
            lora: Low-rank adapters for policy and value on one frozen base; null trains copies of all weights.
            optimizer: AdamW; `lr` is the policy's (C.4 does not print the paper's final one).
            schedule: Constant after a warmup over the first 10 iterations of 8 steps, from a tenth (C.4).
            value_lr: Learning rate of the value function; by default the policy's. C.4: 9e-6, its own.
            sampling: Length limit, temperature, decoding batch and engine of the rollout.
            num_minibatches: Optimizer steps of one pass over an iteration's rollout (C.4: 512 / 64 = 8).
            ppo_epochs: Passes over an iteration's rollout (C.4: 1).
            kl_coef: β, weight of the KL penalty (C.4: 0.02); with `kl.target` its first value.
            clip_range: Ratio clipping (C.4: 0.2).
            value_clip_range: Value clipping, score units; null for none. Not stated; 0.2 as the predecessors.
            value_coef: Weight of the value loss; with separate parameters and Adam it hardly matters.
            gamma: Discount (C.4: none).
            gae_lambda: Not stated; 0.95 as in Stiennon et al. (arXiv 2009.01325).
            missing_eos_penalty: Subtracted from the score of a response without EOS. Not stated.
            reward: Python function or class that scores texts, added to or in place of `reward_from`; or a list of
                several rewards with names and weights, reward models with other tokenizers among them.
            reward_weight: Factor of the score of `reward_from`.
            ending: Other rules for responses without EOS, and a token that ends them.
            kl: Form and place of the KL penalty, its controller, early end of updates, and the run's budget.
            ema: Average of the policy's weights (C.4: decay 0.992); null for none.
            ptx: Pretraining text in the update, its weight γ and what γ means.
            memory: Tokens of a forward in scoring and update, gradient checkpointing.
            pad_token: Token for padding where the tokenizer has none or uses EOS.
            seed: By default `seed_everything`.
            trust_remote_code: Run code that comes with the model. Only for authors you trust.
        """
        source = open_source(policy_from, POLICY_KEY, expect=("sft", "ppo"))
        self.reward_source = open_source(reward_from, REWARD_KEY, expect=("reward",)) if reward_from else None
        settings = StageSettings(
            lora, optimizer, schedule, pad_token, "{prompt}", None, seed, trust_remote_code, memory
        )
        super().__init__(source, POLICY_KEY, settings, locals() | {"reward": None})
        decode, part = self.template.decode, memory.micro_batch_tokens
        has_model, trust = self.reward_source is not None, trust_remote_code
        self.rewards = Rewards(reward, has_model, reward_weight, decode, part, trust)
        self.reward_weight, self.arguments["reward"] = reward_weight, self.rewards.identity()
        reward_limits = check_reward_model(source, self.reward_source, self.template, pad_token, trust)
        self.value_lr = value_lr
        self.sampling = sampling
        check_engine(sampling.engine, lora)
        self.engine = build_engine(sampling)
        self.num_minibatches, self.ppo_epochs = num_minibatches, ppo_epochs
        self.kl_coef, self.missing_eos_penalty = kl_coef, missing_eos_penalty
        self.clip_range, self.value_clip_range, self.value_coef = clip_range, value_clip_range, value_coef
        self.gamma, self.gae_lambda = gamma, gae_lambda
        check_bounds(self)
        self.ending = Ending(ending, missing_eos_penalty, self.template.tokenizer, sampling.max_response_tokens)
        self.control_steps(KLControl(kl, kl_coef), PolicyEMA(ema, self.policy_parameters) if ema else None)
        self.limits = self.limits.both(reward_limits or self.limits, sampling.max_response_tokens)
        self.samples = SampleTable(self)
        self.ptx = PtxUpdate(self, ptx)
        self.update_metrics = UpdateMetrics(clip_range)
        self.run_state.register(
            "update_metrics", self.update_metrics.state_dict, self.update_metrics.load_state_dict, per_rank=True
        )

    # -- set-up -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and "rollout" not in self.run_state:
            # The loop is looked up anew each time: another `fit` of the same module has another trainer.
            self.run_state.register(
                "rollout",
                lambda: self.ppo_loop.rollout_state(),
                lambda state: self.ppo_loop.load_rollout_state(state),
                per_rank=True,
            )
            self.run_state.register(
                "rollout_metrics",
                lambda: self.ppo_loop.metrics_state(),
                lambda state: self.ppo_loop.load_metrics_state(state),
            )

    def source_fingerprints(self) -> dict[str, str]:
        model = {REWARD_KEY: source_fingerprint(self.reward_source)} if self.reward_source else {}
        return super().source_fingerprints() | model | self.rewards.fingerprints()

    def build_model(self) -> None:
        dtype = base_dtype(self.precision, self.lora)
        sources = self.source, self.reward_source
        self.roles = Roles(*sources, self.lora, dtype, self.trust_remote_code, self.reward_weight)
        self.rewards.build(self.roles, self.source, self.lora, dtype)
        self.roles.rule_out_eos(self.template.eos_id, self.sampling.min_response_tokens)

    def train(self, mode: bool = True) -> PPOModule:
        """Dropout stays off in PPO: the update must see the policy that sampled (N+ details, 7)."""
        super().train(mode)
        if hasattr(self, "roles"):
            self.roles.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        lr = self.optimizer_settings.lr
        rates = {"policy": lr, "value": lr if self.value_lr is None else self.value_lr}
        return [{"params": own, "lr": rates[name], "name": name} for name, own in self.roles.trainable_parts().items()]

    # -- one iteration ------------------------------------------------------------------------------------

    def sample(self, batch: PromptBatch, purpose: str, iteration: int, progress: Progress | None = None) -> Rollout:
        """Sample the policy's responses to prompts, with random numbers that depend on the prompts' row numbers."""
        seed = (self.seed, purpose, iteration, 0)
        on_token = (lambda n: progress("rollout", n)) if progress else None
        eos_id, pad_id = self.template.eos_id, self.template.tokenizer.pad_token_id
        backbone, adapter = self.roles.backbone("policy"), self.roles.adapter("policy")
        return self.ending.cut(
            sample_rollout(self.engine, backbone, adapter, batch, self.sampling, seed, eos_id, pad_id, on_token)
        )

    def score(
        self, batch: PromptBatch, rollout: Rollout, training: bool = False, progress: Progress | None = None
    ) -> ScoredRollout:
        """Log-probabilities and scores of a rollout; for training also values, and no reference if β is 0."""
        on_rows = (lambda n: progress("scoring", n)) if progress else None
        temperature, limit = self.sampling.temperature or 1.0, self.memory.micro_batch_tokens
        reference, rewards = not training or self.kl.needs_reference, self.rewards.of(batch.given, progress)
        return score_rollout(self.roles, rollout, temperature, limit, training, reference, on_rows, rewards)

    @torch.no_grad()
    def collect(self, batch: PromptBatch, iteration: int, progress: Progress) -> tuple[Experience, dict[str, float]]:
        """Roll out, score and estimate advantages: everything of an iteration before its update.

        Returns:
            The experience, and the iteration's `rollout/*`, `value/*` and `time/*` metrics.
        """
        start = time.perf_counter()
        self.kl.start(iteration)
        with self.trainer.precision_plugin.forward_context():
            rollout = self.sample(batch, "rollout", iteration, progress)
            rolled = time.perf_counter()
            with failing_together(self.trainer.strategy):
                scored = self.score(batch, rollout, training=True, progress=progress)
                require_finite(rollout, scored, batch.texts)
        mask = rollout.response_mask
        scores = self.ending.scores(scored.scores, rollout.truncated)
        rewards = token_rewards(scores, self.kl.penalty(scored), mask, self.kl.coef)
        advantages, returns = gae(rewards, scored.values, mask, self.gamma, self.gae_lambda)
        advantages = whiten(advantages, mask, reduce=self.reduce_sum)
        metrics = rollout_metrics(rollout, scored, self.reduce_sum)
        metrics |= ending_metrics(rollout.truncated, scored.scores, self.reduce_sum)
        self.rollout_measured(metrics, iteration)
        metrics |= mismatch_metrics(
            rollout, scored, self.reduce_sum, partial(self.trainer.strategy.reduce, reduce_op="max")
        )
        metrics["value/explained_variance"] = float(explained_variance(scored.values, returns, mask, self.reduce_sum))
        seconds = {"time/rollout_s": rolled - start, "time/scoring_s": time.perf_counter() - rolled}
        numbers = (scored.logprobs, scored.values, advantages, returns, self.kl.kept_reference(scored))
        return Experience(rollout, *numbers), metrics | seconds

    def policy_loss(self, batch: MicroBatch, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Policy loss, as a share of the step's, and new log-probabilities [B, R]; `hidden` as in `Roles.logprobs`."""
        data, mask = batch.experience, batch.experience.rollout.response_mask
        temperature = self.sampling.temperature or 1.0
        new_logprobs, _ = self.roles.logprobs("policy", data.rollout, temperature, False, hidden)
        loss = policy_loss(new_logprobs, data.logprobs, data.advantages, mask, self.clip_range, batch.num_tokens)
        return loss + self.kl.loss(new_logprobs, data, batch.num_tokens), new_logprobs

    def value_loss(self, batch: MicroBatch, hidden: Tensor | None = None) -> Tensor:
        """Value loss, as a share of the optimizer step's; `hidden` as in `Roles.values`."""
        data, mask = batch.experience, batch.experience.rollout.response_mask
        new_values = self.roles.values(data.rollout, hidden)
        return value_loss(new_values, data.values, data.returns, mask, self.value_clip_range, batch.num_tokens)

    def loss(self, batch: MicroBatch) -> Tensor:
        loss = self.policy_loss(batch)[0] + self.value_coef * self.value_loss(batch)
        return loss if batch.ptx is None else loss + self.ptx.loss(batch.ptx)

    def single_rows(self, batch: MicroBatch) -> Iterator[tuple[str, MicroBatch]]:
        rollout = batch.experience.rollout
        for i in range(len(rollout)):
            row = batch.experience.rows(torch.tensor([i], device=rollout.prompt_ids.device))
            text = self.template.tokenizer.decode(rollout.prompt_ids[i][rollout.prompt_mask[i]])
            yield text, MicroBatch(row, batch.num_tokens)
        yield from self.ptx.single_rows(batch)

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        if self.kl.stopped:  # no forward, and no step
            return self.scaled(batch, no_loss(list(self.trainable().values())))
        gradients, limit, both = self.early_backward(), self.memory.micro_batch_tokens, self.roles.trained_together
        for part in batch.parts(limit // 2 if both else limit):
            rollout = part.experience.rollout
            fits = both and 2 * len(rollout.sequences.tokens) <= limit  # a single row may be longer than half
            hidden = self.roles.hidden(TRAINED, rollout) if fits else {}
            loss_p, new_logprobs = self.policy_loss(part, hidden.get("policy"))
            if not fits:
                gradients.add(loss_p)  # before the value's forward: the two share no activations
            loss_v = self.value_loss(part, hidden.get("value"))
            gradients.add(self.value_coef * loss_v + (loss_p if fits else 0.0))
            self.update_metrics.add(new_logprobs.detach(), loss_p.detach(), loss_v.detach(), part)
            self.kl.moved(new_logprobs.detach(), part)
            del hidden, loss_p, loss_v, new_logprobs  # and the part's graphs, before the next part's are built
        self.ptx.add(gradients, batch)
        return self.scaled(batch, gradients.loss())

    def on_train_epoch_end(self) -> None:
        reduce, device = self.trainer.strategy.reduce, self.device
        updated = self.update_metrics.finish(reduce, device) | self.ptx.finish(reduce)
        metrics = self.ppo_loop.finished_metrics() | updated
        rates = {f"lr/{g['name']}": g["lr"] for g in self.trainer.optimizers[0].param_groups}
        self.log_dict(metrics | rates | self.kl.metrics(), batch_size=1)
        shown = {k.split("/")[1]: metrics[k] for k in ("rollout/score_mean", "rollout/kl") if k in metrics}
        self.log_dict(shown, prog_bar=True, logger=False, batch_size=1)
        self.end_if_over_budget()

    # -- artefact -----------------------------------------------------------------------------------------

    def save_weights(self, directory: Path) -> None:
        if self.lora:
            save_adapter(directory, self.roles.backbone("policy"), "policy", self.source.model)
        else:
            save_full(directory, self.roles.backbone("policy"))
