"""Non-finite gradients never reach the weights: the step is skipped and counted, and many in a row end the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError

MIN_LOSS_SCALE = 1.0
"""Below this a loss scale no longer explains an overflow: the loss itself has diverged."""


class NonFiniteError(UserError):
    """Too many steps in a row had no finite gradient."""


class NonFiniteGuard:
    """Looks at the gradients before every optimizer step.

    A skipped step leaves weights and optimizer state as they are; the learning-rate schedule goes on. In 16-bit
    mixed precision an overflow of the scaled gradients, which the gradient scaler answers with a smaller scale, is
    counted apart: it belongs to the search for the scale, and is not a divergence.
    """

    def __init__(self, max_in_a_row: int) -> None:
        """
        Args:
            max_in_a_row: The run ends when more steps than this are skipped one after the other.
        """
        self.max_in_a_row = max_in_a_row
        self.skipped = self.overflows = self.in_a_row = 0

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "overflows": self.overflows, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped, self.overflows, self.in_a_row = state["skipped"], state["overflows"], state["in_a_row"]

    def before_step(
        self,
        parameters: dict[str, nn.Parameter],
        finite_loss: Callable[[], bool],
        scale: float | None,
        explain: Callable[[], str],
    ) -> bool:
        """Check one step's gradients, after they are unscaled and summed over processes; drop them if not finite.

        Args:
            parameters: What is trained, by name.
            finite_loss: Whether every micro-batch of the step had a finite loss; asked only when needed.
            scale: Loss scale of 16-bit mixed precision; None without one.
            explain: Says which input is to blame; called only when the run ends.

        Returns:
            Whether the step will be made.

        Raises:
            NonFiniteError: Too many in a row.
        """
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        if not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            self.in_a_row = 0
            return True
        loss_is_finite = finite_loss()
        named = first_non_finite((n, p.grad) for n, p in parameters.items() if p.grad is not None)
        for parameter in parameters.values():
            parameter.grad = None  # optimizers pass over parameters without one, state included
        if scale is not None and scale > MIN_LOSS_SCALE and loss_is_finite:
            self.overflows += 1
            return False
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > self.max_in_a_row:
            raise NonFiniteError(self._diagnosis(named, loss_is_finite, scale, explain))
        return False

    def _diagnosis(self, named: str, loss_is_finite: bool, scale: float | None, explain: Callable[[], str]) -> str:
        scaled = "" if scale is None else f" (loss scale {scale:g}, so this is no overflow of 16-bit gradients)"
        what = "the gradient" if loss_is_finite else "the loss"
        return (
            f"{self.in_a_row} steps in a row had no finite gradient{scaled}: {what} is not finite, first seen in "
            f"{named}. {explain()} The weights are those of the last good step. Lower "
            "model.init_args.optimizer.lr, set trainer.gradient_clip_val, or look at that input; "
            "model.init_args.optimizer.max_skipped_steps sets how many are borne."
        )


def first_non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Name of the first tensor with a NaN or infinity; of the norm, if only their sum of squares overflows."""
    for name, tensor in tensors:
        if not bool(torch.isfinite(tensor).all()):
            return name
    return "the norm of all gradients"
