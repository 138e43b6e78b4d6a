"""What an iteration's update did, summed over micro-batches and saved with the run, so that a kill loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.masked import masked_sum
from rlhf_lightning.ppo.buffer import MicroBatch

NAMES = ("policy/loss", "policy/approx_kl", "policy/clip_frac", "value/loss")


class UpdateMetrics:
    """Means over the iteration's tokens, and the largest ratio. Splitting it into micro-batches changes none.

    Minibatches that an early end of the update left out are not in them.
    """

    def __init__(self, clip_range: float) -> None:
        """
        Args:
            clip_range: ε of the policy loss.
        """
        self.clip_range = clip_range
        self.clear()

    def clear(self) -> None:
        """Begin an iteration, whatever became of the one before."""
        self._sums: dict[str, Tensor] = {name: torch.zeros((), dtype=torch.float64) for name in NAMES}
        self._tokens = torch.zeros((), dtype=torch.float64)
        self._ratio_max = torch.zeros((), dtype=torch.float64)
        self.commit()

    def commit(self) -> None:
        """An optimizer step has been made. Only what belongs to whole steps is saved: the rest is computed again."""
        self._saved = {"sums": dict(self._sums), "tokens": self._tokens, "ratio_max": self._ratio_max}

    def add(self, new_logprobs: Tensor, loss_p: Tensor, loss_v: Tensor, batch: MicroBatch) -> None:
        """Count one micro-batch.

        Args:
            new_logprobs: [B, R] of the policy being updated.
            loss_p: Policy loss, a share of the optimizer step's.
            loss_v: The same of the value loss.
            batch: The micro-batch.
        """
        mask = batch.experience.rollout.response_mask
        log_ratio = torch.where(mask, new_logprobs - batch.experience.logprobs, 0.0)
        ratio = log_ratio.exp()
        clipped = ((ratio - 1).abs() > self.clip_range).double()
        sums = (
            loss_p * batch.num_tokens,
            0.5 * masked_sum(log_ratio**2, mask),
            masked_sum(clipped, mask),
            loss_v * batch.num_tokens,
        )
        for name, value in zip(NAMES, sums, strict=True):
            self._sums[name] = self._sums[name].to(value.device) + value.double()
        self._tokens = self._tokens.to(mask.device) + mask.sum()
        self._ratio_max = torch.maximum(self._ratio_max.to(ratio.device), ratio.max().double())

    def finish(self, reduce: Callable[..., Any], device: torch.device) -> dict[str, float]:
        """The iteration's metrics over all processes; starts anew. Empty if no minibatch was computed.

        Args:
            reduce: The strategy's `reduce`.
            device: Where it takes tensors; sums that nothing was added to are on the CPU.
        """
        stacked = torch.stack([x.to(device) for x in (*self._sums.values(), self._tokens)])
        *sums, tokens = reduce(stacked, reduce_op="sum").tolist()
        ratio_max = float(reduce(self._ratio_max.to(device), reduce_op="max"))
        self.clear()
        if not tokens:
            return {}
        return {name: value / tokens for name, value in zip(NAMES, sums, strict=True)} | {"policy/ratio_max": ratio_max}

    def state_dict(self) -> dict[str, Any]:
        return self._saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._tokens, self._ratio_max = dict(state["sums"]), state["tokens"], state["ratio_max"]
        self.commit()
