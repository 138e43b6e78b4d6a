"""The reference engine: transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.rollouts.engine import Generated, Request
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.seeding import seeded_exactly


class TransformersEngine:
    """Slower than the native engine, and draws from torch's global generator, seeded anew for every batch.

    A row's tokens depend on which rows are decoded with it.
    """

    def generate(
        self,
        backbone: Backbone,
        adapter: str | None,
        request: Request,
        settings: SamplingSettings,
        on_token: Callable[[int], None] | None = None,
    ) -> Generated:
        """See `RolloutEngine`."""
        parts = []
        with backbone.merged(adapter), _without_own_settings(backbone.lm):
            for rows in request.in_order_of_length(settings.batch_size):
                with seeded_exactly(request.draws.batch_seed(rows)):
                    parts.append((rows, _answer(backbone.lm, request, rows, settings, on_token)))
        return Generated.in_rows(len(request.prompt_ids), parts, request.pad_id)


@torch.no_grad()
def _answer(
    lm: Any,
    request: Request,
    rows: list[int],
    settings: SamplingSettings,
    on_token: Callable[[int], None] | None,
) -> Generated:
    ids, mask = request.trimmed(rows)
    watch = Watch(len(rows), ids.device, settings.temperature, request.eos_id, on_token)
    # top_k is 50 unless it is set. Positions are counted from the mask by `generate` itself.
    sampling: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    out = lm.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        generation_config=GenerationConfig(
            max_new_tokens=settings.max_response_tokens,
            min_new_tokens=settings.min_response_tokens or None,
            eos_token_id=request.eos_id,
            pad_token_id=request.pad_id,
            **sampling,
        ),
        logits_processor=LogitsProcessorList([_EachLogits(watch)]),
        stopping_criteria=StoppingCriteriaList([_EachToken(watch)]),
    )
    response_mask = torch.stack(watch.alive_before, 1)
    response_ids = torch.where(response_mask, out[:, ids.shape[1] :], request.pad_id)
    return Generated(response_ids, response_mask, torch.stack(watch.logprobs, 1), watch.alive)


class Watch:
    """Notes each token's log-probability as it is drawn.

    `generate` could return all logits, but of 64 responses of 1,000 tokens that is 12 GB.
    """

    def __init__(
        self, size: int, device: torch.device, temperature: float, eos_id: int, on_token: Callable[[int], None] | None
    ) -> None:
        self.temperature, self.eos_id, self.on_token = temperature or 1.0, eos_id, on_token
        self.alive = torch.ones(size, dtype=torch.bool, device=device)
        self.alive_before: list[Tensor] = []
        self.logprobs: list[Tensor] = []
        self.logits = torch.empty(0)

    def add(self, token: Tensor) -> None:
        """A token per row [B] was drawn from `logits` [B, V]."""
        logprobs = torch.log_softmax(self.logits.float() / self.temperature, -1).gather(1, token.unsqueeze(1))
        self.logprobs.append(torch.where(self.alive, logprobs.squeeze(1), 0.0))
        self.alive_before.append(self.alive)
        if self.on_token:
            self.on_token(int(self.alive.sum()))
        self.alive = self.alive & (token != self.eos_id)


class _EachLogits(LogitsProcessor):
    """Is called before the temperature is applied."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.watch.logits = scores
        return scores


class _EachToken(StoppingCriteria):
    """Stops nothing."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.watch.add(input_ids[:, -1])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def _without_own_settings(lm: Any) -> Iterator[None]:
    """Put the model's generation_config.json aside: whatever we leave open, such as penalties, comes from there."""
    own, lm.generation_config = lm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = own
