"""An iteration's experience, and its way to the optimizer in micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rlhf_lightning.masked import masked_moments
from rlhf_lightning.memory import split_by_tokens
from rlhf_lightning.ppo.ptx import PtxBatch
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
    ref_logprobs: Tensor | None = None
    """[B, R] nats, of the reference; None where the KL penalty is not in the loss."""

    def rows(self, index: Tensor) -> Experience:
        """Some of the rows, trimmed to their longest prompt and response."""
        rollout = self.rollout.rows(index)
        width = rollout.response_ids.shape[1]
        rest = {name: tensor[index, :width] for name, tensor in self._numbers().items()}
        return Experience(rollout, **rest)

    def silent_row(self) -> Experience:
        """A row without valid tokens: a process without rows in a minibatch still has to take part in its step."""
        row = self.rows(torch.zeros(1, dtype=torch.long, device=self.logprobs.device))
        nothing = torch.zeros_like(row.rollout.response_mask)
        return replace(row, rollout=replace(row.rollout, response_mask=nothing))

    def to(self, device: torch.device) -> Experience:
        return Experience.from_state(self.state(), device)

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, for a checkpoint."""
        tensors = {f"rollout.{f.name}": getattr(self.rollout, f.name) for f in fields(Rollout)}
        return tensors | self._numbers()

    def _numbers(self) -> dict[str, Tensor]:
        """What there is beside the rollout."""
        every = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], device: torch.device) -> Experience:
        """The inverse of `state`."""
        moved = {k: v.to(device) for k, v in state.items()}
        rollout = Rollout(**{f.name: moved[f"rollout.{f.name}"] for f in fields(Rollout)})
        return cls(rollout, **{f.name: moved[f.name] for f in fields(cls)[1:] if f.name in moved})


class MicroBatch:
    """Rows of one forward and backward.

    Not a dataclass on purpose: "-true" precisions cast every float inside a dataclass to 16 bit on its way to
    `training_step`, and a ratio to rounded log-probabilities is not 1.
    """

    def __init__(self, experience: Experience, num_tokens: float, ptx: PtxBatch | None = None) -> None:
        """
        Args:
            experience: The rows.
            num_tokens: Response tokens of the whole optimizer step, over its micro-batches and all processes.
            ptx: The step's pretraining text, which goes with its last micro-batch.
        """
        self.experience, self.num_tokens, self.ptx = experience, num_tokens, ptx

    def parts(self, max_tokens: int) -> Iterator[MicroBatch]:
        """Pieces of at most `max_tokens` and at least one row, of similar length; their losses add up to its own.

        Pretraining text is in none of them: `PtxUpdate` has parts of its own.
        """
        tokens = self.experience.rollout.tokens
        order = tokens.argsort(descending=True, stable=True)
        for rows in split_by_tokens(tokens[order], max_tokens):
            yield MicroBatch(self.experience.rows(order[rows]), self.num_tokens)

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(self.experience.to(device), self.num_tokens, self.ptx and self.ptx.to(device))


@dataclass(frozen=True)
class UpdatePlan:
    """How an iteration's rows are split: every epoch, minibatch (one optimizer step) and micro-batch."""

    num_rows: int
    """Of all processes together."""
    ppo_epochs: int
    num_minibatches: int
    accumulate: int
    """Micro-batches of a minibatch: the trainer's `accumulate_grad_batches`."""

    def __len__(self) -> int:
        return self.ppo_epochs * self.num_minibatches * self.accumulate

    def minibatches(self, seed: int, iteration: int) -> list[Tensor]:
        """Row numbers of each optimizer step, of all processes together, shuffled anew in each epoch."""
        steps: list[Tensor] = []
        for epoch in range(self.ppo_epochs):
            shuffled = torch.randperm(self.num_rows, generator=generator(seed, "minibatches", iteration, 0, epoch))
            steps += shuffled.tensor_split(self.num_minibatches)
        return steps

    def own_rows(self, seed: int, iteration: int, rank: int = 0, world_size: int = 1) -> list[int]:
        """The rows that a process rolls out: an even share of every minibatch of the first epoch."""
        first_epoch = self.minibatches(seed, iteration)[: self.num_minibatches]
        return sorted(int(row) for minibatch in first_epoch for row in minibatch[rank::world_size])

    def order(self, seed: int, iteration: int, own: list[int]) -> list[list[Tensor]]:
        """Positions in `own` by [minibatch][micro-batch].

        What a minibatch consists of does not depend on the number of processes; a process may have none of its rows.
        """
        position = {row: i for i, row in enumerate(own)}
        steps = []
        for minibatch in self.minibatches(seed, iteration):
            mine = torch.tensor([position[row] for row in minibatch.tolist() if row in position], dtype=torch.long)
            steps.append(list(mine.tensor_split(self.accumulate)))
        return steps


def explained_variance(
    values: Tensor, returns: Tensor, mask: Tensor, reduce: Callable[[Tensor], Tensor] = torch.clone
) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over valid tokens: 1 is a perfect value function, 0 a constant.

    Args:
        values: [B, R].
        returns: [B, R].
        mask: Bool [B, R].
        reduce: Sums a tensor over all processes; by default there is one.

    >>> values, returns = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[1.0, 3.0, 0.0]])
    >>> float(explained_variance(values, returns, torch.tensor([[True, True, False]])))  # 1 - (1/4) / 1
    0.75
    """
    unexplained = masked_moments(returns - values, mask, reduce)[1]
    return 1 - unexplained / masked_moments(returns, mask, reduce)[1].clamp(min=1e-12)
