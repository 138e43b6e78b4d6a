"""PPO-ptx (§3.5 Eq. 2): what is mixed into each optimizer step, and how it is weighed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.logprobs import token_logprobs
from rlhf_lightning.memory import split_by_tokens
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.ragged import from_lengths
from rlhf_lightning.pretraining_text import KEY, PretrainingText

COEF_KEY = "model.init_args.ptx.coef"
LENGTH_KEY = "model.init_args.ptx.context_tokens"


@dataclass(frozen=True)
class PtxSettings:
    """Pretraining text in the policy's update: its loss is the policy loss + γ · ptx loss, for one optimizer step.

    γ means nothing without the reductions of both losses, which the paper does not give. Here the policy loss is the
    sum over an optimizer step's response tokens, divided by their number N; the ptx loss goes by `reduction`. With the
    paper's sizes a step has 64 responses, of perhaps 100 tokens (N = 6,400), and 512 sequences of 2,048 tokens
    (M = 10⁶). What one pretraining token then weighs beside one response token, and how large the noise of
    their sums is (which grows with the root of a number of tokens, as a policy gradient of whitened advantages does):

    ============ ============================================= ============== =============
    reduction    ptx loss                                      weight, γ 27.8 noise, γ 27.8
    ============ ============================================= ============== =============
    token        sum over tokens / M: nats per token           γN/M = 0.17    γ√(N/M) = 2.2
    sequence     Eq. 2 as it is written: log π of whole texts  3.5            44
    (not here)   sum over tokens / N                           γ = 27.8       356
    ============ ============================================= ============== =============

    With `token`, 27.8 makes the two gradients similar: it pays back what dividing by so many more tokens takes away.
    That is the default. In the other two the policy is hardly trained on its reward at all. Adam takes away a common
    factor, so that γ says nothing but which of the two a step follows; `policy/grad_norm` and `ptx/grad_norm` show
    it. With much shorter sequences or a smaller ratio (a smaller M) the same γ weighs more: go by these norms. The
    last column is an estimate, for a model that has learnt all it can of such text, whose gradient is then noise
    alone; text that is new to a model has a much longer one at first. trainer.gradient_clip_val clips both parts and
    the value function together: a long ptx gradient shortens the others.
    """

    coef: float = 0.0
    """γ (C.4: 27.8); 0 is plain PPO. Needs data.init_args.pretrain."""
    ratio: float = 8.0
    """Pretraining sequences of an optimizer step for each of its responses (C.4: 8)."""
    context_tokens: int = 2048
    """Tokens of a pretraining sequence (App. C: a context of 2k; what an "example" is, the paper does not say)."""
    reduction: Literal["token", "sequence"] = "token"
    """token: mean over pretraining tokens, beside a policy loss that is a mean over response tokens. sequence: both
    are sums over tokens and means over texts, as in Eq. 2, times what makes the policy loss a mean over tokens."""

    def __post_init__(self) -> None:
        check_number(COEF_KEY, self.coef, at_least=0)
        check_number("model.init_args.ptx.ratio", self.ratio, above=0)
        check_number(LENGTH_KEY, self.context_tokens, at_least=2)

    def sequences(self, num_responses: int) -> int:
        """Sequences that belong to a minibatch of so many responses; at least one.

        >>> PtxSettings(ratio=8).sequences(64), PtxSettings(ratio=0.1).sequences(3)
        (512, 1)
        """
        return max(1, round(self.ratio * num_responses))

    def weight(self, num_responses: int, num_tokens: float) -> float:
        """What the mean negative log-likelihood of a pretraining token is multiplied by.

        Args:
            num_responses: Responses of the optimizer step.
            num_tokens: Their tokens.

        >>> PtxSettings(27.8).weight(64, 6400.0)
        27.8
        >>> PtxSettings(2.0, context_tokens=11, reduction="sequence").weight(4, 20.0)  # γ · 10 targets / 5 tokens
        4.0
        """
        if self.reduction == "token":
            return self.coef
        return self.coef * (self.context_tokens - 1) * num_responses / num_tokens


def check_ptx(settings: PtxSettings, has_text: bool) -> None:
    """
    Raises:
        UserError: A coefficient without text, or text without a coefficient: reading and tokenizing it would be for
            nothing, and whoever named it expects it to be trained on.
    """
    if settings.coef > 0 and not has_text:
        raise UserError(
            f"{COEF_KEY} is {settings.coef:g}, but there is no pretraining text: give {KEY}, or set the "
            "coefficient to 0."
        )
    if has_text and not settings.coef > 0:
        raise UserError(
            f"{KEY} is given, but {COEF_KEY} is 0, so nothing would be trained on it. Set the coefficient (the "
            f"paper's is 27.8), or leave {KEY} out."
        )


@dataclass(frozen=True)
class PtxBatch:
    """A process's pretraining sequences of one optimizer step."""

    ids: Tensor
    """[n, T]; n may be 0, where a step has fewer sequences than there are processes."""
    num_targets: int
    """Target tokens of the whole step, over all processes."""
    weight: float
    """As `PtxSettings.weight`."""

    def to(self, device: torch.device) -> PtxBatch:
        return replace(self, ids=self.ids.to(device))

    def parts(self, max_tokens: int) -> Iterator[PtxBatch]:
        """Pieces of at most `max_tokens` and at least one sequence; their losses add up to its own."""
        if not len(self.ids):
            return
        for rows in split_by_tokens(torch.full((len(self.ids),), self.ids.shape[1]), max_tokens):
            yield replace(self, ids=self.ids[rows.to(self.ids.device)])


def ptx_batch(
    settings: PtxSettings,
    text: PretrainingText,
    sizes: Sequence[int],
    iteration: int,
    step: int,
    num_tokens: float,
    rank: int = 0,
    world_size: int = 1,
) -> PtxBatch:
    """What belongs to an optimizer step, whatever came before: a function of the seed and of where the run stands.

    Args:
        settings: γ and its reduction, and how much text.
        text: Pretraining sequences.
        sizes: Responses of each of an iteration's steps, over all processes; the same in every iteration.
        iteration: From 0.
        step: Of the iteration, from 0.
        num_tokens: Response tokens of the step, over all processes.
        rank: Of this process, which takes an even share.
        world_size: Number of processes.
    """
    counts = [settings.sequences(size) for size in sizes]
    first = iteration * sum(counts) + sum(counts[:step])
    ids = text.ids(range(first + rank, first + counts[step], world_size))
    weight = settings.weight(sizes[step], num_tokens)
    return PtxBatch(ids, counts[step] * (text.length - 1), weight)


def text_logprobs(backbone: Backbone, adapter: str | None, ids: Tensor) -> Tensor:
    """Log-probability of every token but the first of each sequence [n, T]; [n, T-1] nats, at temperature 1."""
    lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
    with backbone.using(adapter):
        hidden = backbone.hidden_ragged(from_lengths(ids.flatten(), lengths))
        before = hidden.view(*ids.shape, -1)[:, :-1].flatten(0, 1)
        logprobs, _ = token_logprobs(before, ids[:, 1:].flatten(), backbone.unembed, with_entropy=False)
    return logprobs.view(len(ids), -1)
