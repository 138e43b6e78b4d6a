"""An exponential moving average of the policy's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError

Weights = Literal["raw", "ema"]
KEY = "model.init_args.ema"


@dataclass(frozen=True)
class EMASettings:
    """The average and its uses. The paper has one (C.4) and says neither how often it is updated nor what for; here
    it is updated after every optimizer step, and whoever asks for it evaluates and exports it. Rollouts are always
    sampled from the trained weights themselves."""

    decay: float = 0.992
    """Share of the old average in the new one (C.4: 0.992, which looks back on some 125 steps)."""
    evaluate_with: Weights = "ema"
    """Weights of validation, test and prediction."""
    export: Weights = "ema"
    """Weights of the artefact in `final/`."""

    def __post_init__(self) -> None:
        check_number(f"{KEY}.decay", self.decay, at_least=0, below=1)


class PolicyEMA:
    """The average of what is trained of the policy, in float32, beside it.

    It begins as the weights that training begins with. A step that is not made (no finite gradient, or beyond the KL
    limit) leaves it as it is.
    """

    def __init__(self, settings: EMASettings, parameters: Callable[[], Mapping[str, nn.Parameter]]) -> None:
        """
        Args:
            settings: Decay and uses.
            parameters: Gives the policy's trained parameters by name.
        """
        self.settings = settings
        self._parameters = parameters
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def start(self) -> None:
        """Begin with the present weights, or go on with what a checkpoint had; called when they are on their device.

        Raises:
            UserError: The checkpoint's average is of other weights.
        """
        parameters = self._parameters()
        if not self._average:
            self._average = {n: p.detach().float().clone() for n, p in parameters.items()}
        if different := sorted(self._average.keys() ^ parameters.keys()):
            raise UserError(
                f"--ckpt_path: the checkpoint's average of weights does not belong to this configuration: "
                f"{len(different)} tensors are on one side only, such as {different[0]!r}. Check `model` in the config."
            )
        self._average = {n: self._average[n].to(p.device) for n, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay · average + (1 - decay) · weights, after an optimizer step."""
        for name, parameter in self._parameters().items():
            self._average[name].lerp_(parameter.detach().float(), 1 - self.settings.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Run a block with the average in place of the weights; a block that fails puts them back too."""
        parameters = self._parameters()
        if not self._average:  # nothing was trained: a validation of the model as it is
            yield
            return
        originals = {n: p.data for n, p in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._average[name].to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = originals[name]

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; tensors may be on another device until `start`."""
        self._average = {n: t.clone() for n, t in state["average"].items()}


def weights_for(ema: PolicyEMA | None, use: Literal["evaluate_with", "export"]) -> Any:
    """A context in which the policy has the weights that the settings give this use."""
    return ema.swapped() if ema is not None and getattr(ema.settings, use) == "ema" else nullcontext()
