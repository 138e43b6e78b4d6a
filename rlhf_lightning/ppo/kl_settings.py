"""What a user can say about the KL penalty beside its coefficient, and about limits on the KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.kl import Estimator

KEY = "model.init_args.kl"


@dataclass(frozen=True)
class KLSettings:
    """The penalty's form, its controller, and limits. All off by default: k1 in the reward, times `kl_coef`."""

    estimator: Estimator = "k1"
    """k1 is the one whose gradient is right in the reward, k2 in the loss; see `place`."""
    place: Literal["reward", "loss"] = "reward"
    """reward: subtracted from each token's reward (§3.5). Policy gradients take rewards for constants: that is the
    whole gradient of KL(policy, reference) with k1 alone. With k2 the penalty vanishes to first order around the
    reference; k3 gives the gradient of KL(policy, reference) - KL(reference, policy), which vanishes there too.
    loss: a term with a gradient of its own. k2 gives the gradient of each token's KL(policy, reference), k3 (as GRPO
    has it) that of KL(reference, policy), k1 none: refused."""
    target: float | None = None
    """KL of a rollout that `kl_coef` is adapted to after each iteration, nats per response (Ziegler et al. 2019: 6);
    null keeps it fixed, as the paper does."""
    horizon: float = 10_000.0
    """Responses in which the controller answers an error (Ziegler et al. 2019: 10,000)."""
    stop_update: float | None = None
    """Mean of (log ratio)² / 2 of a minibatch's tokens, nats per token, beyond which this minibatch and all others
    of the iteration make no step, neither of the policy nor of the value function; null for never. Steps that are
    skipped count as steps for the learning-rate schedule and for Lightning."""
    budget: float | None = None
    """KL to the reference, nats per response, beyond which training ends with the policy measured last within it;
    null for none. The measurement is a mean of k1 over the responses at hand, and noisy where they are few. The policy
    within the budget is kept beside the trained one, on the CPU and in checkpoints."""
    budget_on: Literal["rollout", "validation"] = "rollout"
    """What the budget is compared with: `rollout/kl` of every iteration, or `val/kl`."""

    @property
    def in_loss(self) -> bool:
        return self.place == "loss"

    def __post_init__(self) -> None:
        check_number(f"{KEY}.target", self.target, above=0)
        check_number(f"{KEY}.horizon", self.horizon, above=0)
        check_number(f"{KEY}.stop_update", self.stop_update, above=0)
        check_number(f"{KEY}.budget", self.budget, above=0)
        if self.in_loss and self.estimator == "k1":
            raise UserError(
                f"{KEY}.estimator: k1's gradient is zero in expectation, so in the loss it adds noise and no penalty. "
                f"Take k2 (or k3), or set {KEY}.place to reward."
            )

    def check_coefficient(self, kl_coef: float) -> None:
        """
        Raises:
            UserError: There is nothing to adapt.
        """
        if self.target is not None and kl_coef == 0:
            raise UserError(
                f"{KEY}.target adapts model.init_args.kl_coef by multiplying it, and that is 0. Set kl_coef above 0, "
                "or target to null."
            )

    def check_responses(self, responses: int) -> None:
        """
        Args:
            responses: Responses of an iteration.

        Raises:
            UserError: One iteration could take the coefficient to 0 or below.
        """
        if self.target is not None and 0.2 * responses / self.horizon >= 1:
            raise UserError(
                f"{KEY}.horizon is {self.horizon:g}: with {responses} responses an iteration (data.init_args."
                f"batch_size) the coefficient could fall to 0 at once. Set it above {0.2 * responses:g}."
            )

    def needs_reference(self, kl_coef: float) -> bool:
        """Whether training has a use for the reference's log-probabilities."""
        return kl_coef > 0 or (self.budget is not None and self.budget_on == "rollout")
