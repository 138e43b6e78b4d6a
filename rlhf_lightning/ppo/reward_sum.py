"""All rewards of a run together: a weighted sum, each of them with a metric of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rlhf_lightning.artefacts import Source, source_fingerprint
from rlhf_lightning.data.kinds import PromptLike
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.ppo.prompts import PromptRow
from rlhf_lightning.ppo.reward_functions import FunctionReward
from rlhf_lightning.ppo.reward_terms import MODEL, RewardFunction, RewardTerm, named_terms, reward_identity
from rlhf_lightning.ppo.roles import Roles
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.text_reward_models import RewardReader, TextRewardModel

RewardSum: TypeAlias = Callable[[Rollout, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Takes a rollout and its scores by the reward model in `reward_from` [B] (zeros without one); gives the sum that is
optimized, and every reward by name, unweighted; [B] each."""


class Rewards:
    """Everything that scores, but for the reward model in `reward_from`, whose place is on the policy's tokens."""

    def __init__(
        self,
        reward: Sequence[RewardTerm] | RewardFunction | None,
        has_model: bool,
        weight: float,
        decode: Callable[[Sequence[int]], str],
        micro_batch_tokens: int,
        trust_remote_code: bool = False,
    ) -> None:
        """
        Args:
            reward: `model.init_args.reward`.
            has_model: Whether there is a reward model in `reward_from`.
            weight: Its weight.
            decode: Token ids of a response to its text.
            micro_batch_tokens: Tokens of a reward model's forward.
            trust_remote_code: Run code that comes with a model.

        Raises:
            UserError: See `named_terms`; or the weight is of a model that there is not.
        """
        self.terms = named_terms(reward, has_model, weight)
        if not has_model and weight != 1.0:
            raise UserError(
                f"model.init_args.reward_weight is {weight:g}, which is for reward_from, and there is none. "
                "Give each reward its `weight` in model.init_args.reward."
            )
        self._has_model, self._weight, self._decode, self._trust = has_model, weight, decode, trust_remote_code
        self._scorers: list[FunctionReward | TextRewardModel] = []
        for term in self.terms:
            if term.source is not None:
                reader = RewardReader(term.source, f"{term.key}.reward_from", trust_remote_code)
                self._scorers.append(TextRewardModel(reader, micro_batch_tokens))
            else:
                assert term.function is not None
                self._scorers.append(FunctionReward(term.function, term.key, term.name, term.batch_size))

    def identity(self) -> dict[str, Any] | None:
        """What a resumed run compares; None where `model.init_args.reward` is not set."""
        return reward_identity(self.terms) or None

    def fingerprints(self) -> dict[str, str]:
        """Hashes of the reward models, by configuration key."""
        return {f"{t.key}.reward_from": source_fingerprint(t.source) for t in self.terms if t.source is not None}

    def build(self, roles: Roles, policy: Source, lora: LoraSettings | None, dtype: torch.dtype) -> None:
        """Load the reward models, where they can on the policy's base, and make `roles` their owner."""
        for i, scorer in enumerate(self._scorers):
            if isinstance(scorer, TextRewardModel):
                scorer.build(lora, dtype, self._trust, (roles.backbone("policy"), policy.model, f"reward{i}"))
                roles.add_module(f"text_reward{i}", scorer)

    def check_prompt(self, prompt: PromptLike, where: str) -> None:
        """
        Args:
            prompt: Of a row that is being read.
            where: Its file and line.

        Raises:
            UserError: A reward model cannot read it.
        """
        for scorer in self._scorers:
            if isinstance(scorer, TextRewardModel):
                try:
                    scorer.reader.prompt(prompt)
                except UserError as error:
                    raise UserError(f"{where}: {error}") from error

    def of(self, rows: Sequence[PromptRow], progress: Callable[[str, int], None] | None = None) -> RewardSum | None:
        """How to add up the rewards of responses to `rows`; None where the model's score is all there is.

        Args:
            rows: The prompts.
            progress: Called with "reward <name>" and the number of responses just scored.
        """
        if not self.terms and self._weight == 1:
            return None

        def add(rollout: Rollout, model_scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            ids = zip(rollout.response_ids.tolist(), rollout.response_mask.tolist(), strict=True)
            texts = [self._decode([token for token, valid in zip(*row, strict=True) if valid]) for row in ids]
            ended = (~rollout.truncated).tolist()
            rewards = {MODEL: model_scores} if self._has_model else {}
            total = self._weight * model_scores
            for term, scorer in zip(self.terms, self._scorers, strict=True):

                def on_rows(done: int, phase: str = f"reward {term.name}") -> None:
                    if progress is not None:
                        progress(phase, done)

                values = scorer.score(rows, texts, ended, on_rows)
                rewards[term.name] = torch.tensor(values, dtype=torch.float32, device=model_scores.device)
                total = total + term.weight * rewards[term.name]
            return total, rewards

        return add
