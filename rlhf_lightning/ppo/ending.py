"""How responses end, what an end is worth, and what was seen of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.masked import masked_moments
from rlhf_lightning.ppo.rewards import penalize_missing_eos
from rlhf_lightning.ppo.rollout import Rollout

KEY = "model.init_args.ending"
DEFAULT_SCORE, DEFAULT_PENALTY = -1.0, 1.0


@dataclass(frozen=True)
class EndingSettings:
    """Responses end with EOS or at `sampling.max_response_tokens`; the paper says nothing of those without EOS."""

    missing_eos: Literal["subtract", "replace"] = "subtract"
    """What a response without an end scores. subtract: `missing_eos_penalty` less than the reward model says, on any
    scale. replace: `missing_eos_score` whatever it says, as openai/lm-human-preferences."""
    missing_eos_score: float = DEFAULT_SCORE
    """Score of a response without an end, with `replace` (openai/lm-human-preferences: -1)."""
    truncate_at: str | None = None
    """A text of one token after which a response is cut, such as "."; null for none. The token stays and ends the
    response as EOS would; what follows it was never said: the reward model does not read it, and nothing is trained on
    it. No EOS is put in its place, except behind what the reward models in `reward` read, which is text.
    `sampling.min_response_tokens` is about EOS alone."""
    truncate_after: int = 0
    """Tokens at the beginning of a response in which `truncate_at` cuts nothing (openai/lm-human-preferences: 16)."""

    def __post_init__(self) -> None:
        check_number(f"{KEY}.missing_eos_score", self.missing_eos_score)
        check_number(f"{KEY}.truncate_after", self.truncate_after, at_least=0)
        if self.missing_eos == "subtract" and self.missing_eos_score != DEFAULT_SCORE:
            raise UserError(
                f"{KEY}.missing_eos_score is {self.missing_eos_score:g} and has no effect with missing_eos subtract. "
                f"Set {KEY}.missing_eos to replace, or model.init_args.missing_eos_penalty."
            )
        if self.truncate_at is None and self.truncate_after:
            raise UserError(f"{KEY}.truncate_after is {self.truncate_after} and has no effect without truncate_at.")


class Ending:
    """The settings, with the token that they name."""

    def __init__(self, settings: EndingSettings, penalty: float, tokenizer: Any, max_response_tokens: int) -> None:
        """
        Args:
            settings: What the user said.
            penalty: `missing_eos_penalty`, score units.
            tokenizer: The policy's.
            max_response_tokens: Longest response.

        Raises:
            UserError: `truncate_at` is not one token, or could never cut; or the penalty has no effect.
        """
        if settings.missing_eos == "replace" and penalty != DEFAULT_PENALTY:
            raise UserError(
                f"model.init_args.missing_eos_penalty is {penalty:g} and has no effect with {KEY}.missing_eos replace. "
                f"Leave it out, and set {KEY}.missing_eos_score."
            )
        self.settings, self.penalty = settings, penalty
        self.pad_id = int(tokenizer.pad_token_id)
        self.token: int | None = None
        if settings.truncate_at is None:
            return
        ids = tokenizer.encode(settings.truncate_at, add_special_tokens=False)
        if len(ids) != 1 or ids[0] in (tokenizer.eos_token_id, tokenizer.pad_token_id):
            what = f"{len(ids)} tokens of the policy's tokenizer" if len(ids) != 1 else "its EOS or PAD"
            raise UserError(
                f"{KEY}.truncate_at: {settings.truncate_at!r} is {what}; give the text of one other token, or null."
            )
        if settings.truncate_after >= max_response_tokens:
            raise UserError(
                f"{KEY}.truncate_after is {settings.truncate_after}, and responses have at most {max_response_tokens} "
                "tokens (model.init_args.sampling.max_response_tokens), so nothing would be cut. Set it below that."
            )
        self.token = ids[0]

    def cut(self, rollout: Rollout) -> Rollout:
        """The responses up to the first `truncate_at` past the beginning; a response that is cut there has ended."""
        if self.token is None:
            return rollout
        return cut_after(rollout, self.token, self.settings.truncate_after, self.pad_id)

    def scores(self, scores: Tensor, truncated: Tensor) -> Tensor:
        """Scores [B] by the rule for responses without an end.

        Args:
            scores: [B], the reward model's.
            truncated: Bool [B]; without an end.
        """
        if self.settings.missing_eos == "replace":
            return torch.where(truncated, self.settings.missing_eos_score, scores)
        return penalize_missing_eos(scores, truncated, self.penalty)


def cut_after(rollout: Rollout, token: int, after: int, pad_id: int) -> Rollout:
    """Cut each response after the first `token` at position `after` (from 0) or later.

    A response cut there is one that sampling would have stopped there, token for token and in its log-probabilities.
    """
    ids, mask = rollout.response_ids, rollout.response_mask
    ends = (ids == token) & mask
    ends[:, :after] = False
    kept = mask & (ends.cumsum(1) - ends.long() == 0)
    width = max(1, int(kept.sum(1).max()))
    kept = kept[:, :width]
    return replace(
        rollout,
        response_ids=torch.where(kept, ids[:, :width], pad_id),
        response_mask=kept,
        truncated=rollout.truncated & ~ends.any(1),
        sampler_logprobs=torch.where(kept, rollout.sampler_logprobs[:, :width], 0.0),
    )


def ending_metrics(
    truncated: Tensor, scores: Tensor, reduce: Callable[[Tensor], Tensor] = torch.clone
) -> dict[str, float]:
    """Mean scores of responses with an end and without, before any rule; a kind that there is none of has no metric.

    Their share is `rollout/eos_rate`.

    Args:
        truncated: Bool [B]; without an end.
        scores: [B], the reward model's.
        reduce: Sums a tensor over all processes; by default there is one.
    """
    metrics = {}
    for name, rows in (("finished", ~truncated), ("truncated", truncated)):
        if float(reduce(rows.sum().double())) > 0:
            metrics[f"rollout/score_{name}"] = float(masked_moments(scores, rows, reduce)[0])
    return metrics
