"""An iteration's experience, and its way to the optimizer in micro-batches."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.seeding import generator


@dataclass(frozen=True)
class Experience:
    """What the update needs to know of B responses of at most R tokens; floats are 0 where masked."""

    rollout: Rollout
    logprobs: Tensor
    """[B, R] nats, at rollout."""
    values: Tensor
    """[B, R] at rollout."""
    advantages: Tensor
    """[B, R], whitened."""
    returns: Tensor
    """[B, R]"""

    def rows(self, index: Tensor) -> Experience:
        """Some of the rows, trimmed to their longest prompt and response."""
        rollout = self.rollout.rows(index)
        width = rollout.response_ids.shape[1]
        rest = (getattr(self, f.name)[index, :width] for f in fields(self)[1:])
        return Experience(rollout, *rest)

    def to(self, device: torch.device) -> Experience:
        return Experience.from_state(self.state(), device)

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint."""
        tensors = {f"rollout.{f.name}": getattr(self.rollout, f.name) for f in fields(Rollout)}
        return tensors | {f.name: getattr(self, f.name) for f in fields(self)[1:]}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], device: torch.device) -> Experience:
        """The inverse of `state`."""
        moved = {k: v.to(device) for k, v in state.items()}
        rollout = Rollout(**{f.name: moved[f"rollout.{f.name}"] for f in fields(Rollout)})
        return cls(rollout, **{f.name: moved[f.name] for f in fields(cls)[1:]})


class MicroBatch:
    """Rows of one forward and backward.

    Not a dataclass on purpose: "-true" precisions cast every float inside a dataclass to 16 bit on its way to
    `training_step`, and a ratio to rounded log-probabilities is not 1.
    """

    def __init__(self, experience: Experience, num_tokens: float) -> None:
        """
        Args:
            experience: The rows.
            num_tokens: Response tokens of the whole optimizer step, over its micro-batches and all processes.
        """
        self.experience, self.num_tokens = experience, num_tokens

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(self.experience.to(device), self.num_tokens)


@dataclass(frozen=True)
class UpdatePlan:
    """How an iteration's rows are split: every epoch, minibatch (one optimizer step) and micro-batch."""

    num_rows: int
    ppo_epochs: int
    num_minibatches: int
    accumulate: int
    """Micro-batches of a minibatch: the trainer's `accumulate_grad_batches`."""

    def __len__(self) -> int:
        return self.ppo_epochs * self.num_minibatches * self.accumulate

    def order(self, seed: int, iteration: int, rank: int) -> list[list[Tensor]]:
        """Row numbers [minibatch][micro-batch], shuffled anew in each epoch."""
        steps = []
        for epoch in range(self.ppo_epochs):
            shuffled = torch.randperm(self.num_rows, generator=generator(seed, "minibatches", iteration, rank, epoch))
            for minibatch in shuffled.tensor_split(self.num_minibatches):
                steps.append(list(minibatch.tensor_split(self.accumulate)))
        return steps


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Any:
    """1 - Var(returns - values) / Var(returns) over valid tokens: 1 is a perfect value function, 0 a constant.

    >>> values, returns = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 3.0, 0.0]])
    >>> float(explained_variance(values, returns, torch.tensor([[True, True, False]])))  # 1 - (1/4) / 1
    0.75
    """
    from rlhf_lightning.masked import masked_moments

    return 1 - masked_moments(returns - values, mask)[1] / masked_moments(returns, mask)[1].clamp(min=1e-12)
