"""The KL penalty's coefficient over a run, the early end of an iteration's update, and the KL budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lightning.masked import masked_sum
from rlhf_lightning.ppo.buffer import Experience, MicroBatch
from rlhf_lightning.ppo.kl import adapted, kl_estimate, kl_k2, kl_loss
from rlhf_lightning.ppo.kl_settings import KEY, KLSettings
from rlhf_lightning.ppo.scoring import ScoredRollout


class KLControl:
    """What depends on how far the policy has moved. The same on every process: it looks at sums over all of them.

    Everything is keyed by the iteration, so that rolling an iteration out again (a run was killed before its first
    step) gives what the first time gave.
    """

    def __init__(self, settings: KLSettings, kl_coef: float) -> None:
        """
        Args:
            settings: Form, controller and limits.
            kl_coef: The coefficient to begin with.

        Raises:
            UserError: The two do not go together.
        """
        settings.check_coefficient(kl_coef)
        self.settings = settings
        self._first_coef = self.coef = self._next_coef = kl_coef
        """Of the current iteration, and of the next one."""
        self.iteration = -1
        self.stopped = False
        """The rest of the iteration's minibatches make no step."""
        self.skipped = 0
        """Optimizer steps of the iteration that were not made."""
        self.exceeded = ""
        """Why the run ends: a message once the budget is exceeded, and empty before."""
        self._moved: Tensor | None = None
        self._num_tokens = 1.0

    # -- an iteration's rollout -----------------------------------------------------------------------------

    def start(self, iteration: int) -> None:
        """Take the coefficient that the iteration before left; called before rewards are computed."""
        if iteration != self.iteration:
            self.iteration, self.coef = iteration, self._next_coef
        self.stopped, self.skipped, self._moved = bool(self.exceeded), 0, None

    def measured(self, kl: float, responses: int) -> None:
        """Adapt the coefficient of the next iteration; called after rewards are computed.

        Args:
            kl: Of all processes' responses, nats per response.
            responses: Of all processes.
        """
        target = self.settings.target
        if target is not None:
            self._next_coef = adapted(self.coef, kl, target, responses, self.settings.horizon)

    @property
    def needs_reference(self) -> bool:
        """Whether training has a use for the reference's log-probabilities."""
        return self.settings.needs_reference(self.coef)

    def penalty(self, scored: ScoredRollout) -> Tensor:
        """The estimate that is in the reward, nats, [B, R]; 0 where there is none."""
        if self.settings.in_loss or scored.ref_logprobs is None:
            return torch.zeros_like(scored.logprobs)
        return kl_estimate(self.settings.estimator, scored.logprobs, scored.ref_logprobs)

    def kept_reference(self, scored: ScoredRollout) -> Tensor | None:
        """The reference's log-probabilities [B, R], if the update needs them."""
        return scored.ref_logprobs if self.settings.in_loss and self.coef > 0 else None

    # -- its update -----------------------------------------------------------------------------------------

    def loss(self, new_logprobs: Tensor, data: Experience, num_tokens: float) -> Tensor | float:
        """The term of the policy's loss, coefficient included; 0 where the penalty is in the reward."""
        if data.ref_logprobs is None:
            return 0.0
        mask = data.rollout.response_mask
        return self.coef * kl_loss(self.settings.estimator, new_logprobs, data.ref_logprobs, mask, num_tokens)

    def moved(self, new_logprobs: Tensor, batch: MicroBatch) -> None:
        """Count how far the policy is from the one that sampled, on some rows of an optimizer step.

        Args:
            new_logprobs: [B, R], detached.
            batch: The rows.
        """
        if self.settings.stop_update is None:
            return
        mask = batch.experience.rollout.response_mask
        k2 = masked_sum(kl_k2(new_logprobs, batch.experience.logprobs), mask).double()
        self._moved = k2 if self._moved is None else self._moved + k2
        self._num_tokens = batch.num_tokens

    def skips_step(self, reduce: Callable[[Tensor], Tensor]) -> bool:
        """Whether the optimizer step that is about to be made is to be skipped; called once a step, on every process.

        Args:
            reduce: Sums a tensor over all processes.
        """
        if self._moved is not None and not self.stopped:
            assert self.settings.stop_update is not None
            moved = float(reduce(self._moved)) / max(self._num_tokens, 1.0)
            # What is not finite is for the guard, which counts it and ends the run if it stays so.
            self.stopped = math.isfinite(moved) and moved > self.settings.stop_update
        self._moved = None
        self.skipped += self.stopped
        return self.stopped

    def metrics(self) -> dict[str, float]:
        """Of the iteration, at its end."""
        limited = self.settings.stop_update is not None or self.settings.budget is not None
        return {"kl_coef": self.coef} | ({"policy/skipped_minibatches": float(self.skipped)} if limited else {})

    # -- the budget -----------------------------------------------------------------------------------------

    def within_budget(self, where: str, kl: float, when: str) -> bool | None:
        """Compare with the budget; None where this is not what it is compared with, or it is exceeded already.

        Args:
            where: "rollout" or "validation".
            kl: Nats per response.
            when: For the message.
        """
        budget = self.settings.budget
        if budget is None or self.settings.budget_on != where or self.exceeded:
            return None
        if kl <= budget:
            return True
        self.exceeded = (
            f"The KL budget is spent: {kl:.3g} nats per response {when}, and {KEY}.budget is {budget:g}. Training "
            "ends with the policy that was measured last within it."
        )
        self.stopped = True
        return False

    # -- saved with the run ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything but an unfinished optimizer step."""
        return {
            "first_coef": self._first_coef,
            "coef": self.coef,
            "next_coef": self._next_coef,
            "iteration": self.iteration,
            "stopped": self.stopped,
            "skipped": self.skipped,
            "exceeded": self.exceeded,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; one that is not adapted from the same start is that of the settings."""
        self.iteration = state["iteration"]
        adapted_from = state.get("first_coef", self._first_coef)  # which earlier checkpoints lack
        if self.settings.target is not None and adapted_from == self._first_coef:
            self.coef, self._next_coef = state["coef"], state["next_coef"]
        else:
            self.coef = self._next_coef = self._first_coef
        self.stopped, self.skipped, self.exceeded = state["stopped"], state["skipped"], state["exceeded"]


def no_loss(parameters: Sequence[nn.Parameter]) -> Tensor:
    """0, with a gradient of 0 for every parameter: DDP and gradient scalers wait for each of them."""
    return torch.stack([p.flatten()[0].float() for p in parameters]).sum() * 0.0
