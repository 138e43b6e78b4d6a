"""Which weights of an SFT run are its best, and what a user can say about it (§3.5, C.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError

KEY = "model.init_args.select"
SCORE, SCORE_ERROR = "val/rm_score", "val/rm_score_se"


@dataclass(frozen=True)
class SelectionSettings:
    """Selection of the checkpoint among a run's validations. The paper goes by the reward model's score on validation
    prompts: the validation loss overfits after one epoch, and more epochs raise score and human rating all the same
    (C.1). It gives neither the number of prompts nor how responses are sampled."""

    reward_from: str | None = None
    """Reward artefact that scores the model's responses at every validation, as `val/rm_score`; null for none. Of any
    size and with any tokenizer: it reads text. An adapter on this run's base shares it."""
    by: Literal["rm_score", "loss"] = "rm_score"
    """What decides: the largest `val/rm_score`, or the smallest `val/loss`. Of equals the first."""
    keep: Literal["best", "last"] = "best"
    """Weights in `final/`: those of the best validation, or those that training ended with. The best are kept on the
    CPU and in every checkpoint."""
    prompts: str | list[str] | None = None
    """Files of prompts to answer; null takes those of the validation demonstrations."""
    num_prompts: int = 256
    """At most so many, drawn once by the seed. The standard error falls with its root."""
    max_response_tokens: int | None = None
    """Responses are stopped here; null is data.init_args.max_response_tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token. 1 is what PPO samples with."""
    batch_size: int = 64
    """Prompts decoded together; limits memory."""

    def __post_init__(self) -> None:
        check_number(f"{KEY}.num_prompts", self.num_prompts, at_least=2)
        check_number(f"{KEY}.max_response_tokens", self.max_response_tokens, at_least=1)
        check_number(f"{KEY}.temperature", self.temperature, at_least=0)
        check_number(f"{KEY}.batch_size", self.batch_size, at_least=1)
        if self.reward_from is None and self.by == "rm_score":
            raise UserError(
                f"{KEY}.reward_from is missing: without a reward model there is no {SCORE} to select by. Give a "
                f"reward artefact, or set {KEY}.by to loss."
            )
        if self.reward_from is None and self.prompts is not None:
            raise UserError(f"{KEY}.prompts is given, but no {KEY}.reward_from to score responses to them. Give both.")

    def identity(self) -> dict[str, Any]:
        """What a resumed run compares: all but the files, whose content is compared."""
        return {k: v for k, v in asdict(self).items() if k not in ("reward_from", "prompts")}


class Selection:
    """The best validation of a run so far, and what was trained by then."""

    def __init__(self, settings: SelectionSettings, parameters: Callable[[], Mapping[str, nn.Parameter]]) -> None:
        """
        Args:
            settings: What decides, and whether its weights are kept.
            parameters: Gives the trained parameters by name.
        """
        self.settings = settings
        self._parameters = parameters
        self._best: dict[str, float] = {}
        self._weights: dict[str, Tensor] = {}

    @property
    def monitor(self) -> str:
        """Name of the metric that decides."""
        return SCORE if self.settings.by == "rm_score" else "val/loss"

    def measured(self, metrics: Mapping[str, float], epoch: int, step: int) -> None:
        """Take note of a validation; of the same one again, after a resume, nothing changes.

        Args:
            metrics: `monitor` and whatever else is worth recording.
            epoch: From 1.
            step: Optimizer steps.
        """
        value = metrics[self.monitor]
        best = self._best.get(self.monitor)  # there is none either where another metric decided until now
        if not math.isfinite(value) or (best is not None and not self._better(value, best)):
            return
        self._best = dict(metrics) | {"epoch": float(epoch), "step": float(step)}
        if self.settings.keep == "best":
            self._weights = {n: p.detach().to("cpu", copy=True) for n, p in self._parameters().items()}

    def _better(self, value: float, than: float) -> bool:
        return value > than if self.settings.by == "rm_score" else value < than

    def metrics(self) -> dict[str, float]:
        """The best validation, for `stage.json`: `best/epoch`, `best/step`, and its metrics."""
        return {f"best/{name}": value for name, value in self._best.items()}

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Run a block with the weights that are to be written in place of the trained ones."""
        parameters = {n: p for n, p in self._parameters().items() if n in self._weights}
        trained = {n: p.detach().clone() for n, p in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.copy_(self._weights[name])
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.copy_(trained[name])

    def summary(self, last: Mapping[str, float]) -> str:
        """What is in `final/`, in words.

        Args:
            last: Metrics of the last validation.
        """
        if not self._best:
            return f"No validation gave a finite {self.monitor}: final/ holds the weights that training ended with."
        best = f"{self.monitor} {self._best[self.monitor]:.4g} at step {self._best['step']:.0f}"
        where = f"epoch {self._best['epoch']:.0f}, best of the validations; the last has {last[self.monitor]:.4g}"
        what = "those weights" if self.settings.keep == "best" else "the weights that training ended with"
        return f"{best} ({where}). final/ holds {what}."

    def state_dict(self) -> dict[str, Any]:
        """The best validation and its weights."""
        return {"best": self._best, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._best, self._weights = state["best"], state["weights"]
        if self.settings.keep == "best" and not self._weights:  # of a run that kept none: nothing to be better than
            self._best = {}


def mean_and_error(scores: Tensor) -> tuple[float, float]:
    """Mean of scores [N >= 2] and its standard error over prompts, s / √N.

    >>> mean_and_error(torch.tensor([1.0, 3.0]))
    (2.0, 1.0)
    """
    scores = scores.double()
    return float(scores.mean()), float(scores.std() / len(scores) ** 0.5)
