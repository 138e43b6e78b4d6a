"""A model that is being evaluated: it answers, and says how likely it finds given text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.logprobs import token_logprobs
from rlhf_lightning.memory import split_by_tokens
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.ragged import from_lengths
from rlhf_lightning.ppo.prompts import PromptItem, collate_prompts
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.rollouts.engine import Draws, Request, RolloutEngine
from rlhf_lightning.rollouts.settings import SamplingSettings

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Token ids of what comes before (at least one) and of what is asked about (may be empty)."""


@dataclass(frozen=True)
class Sampled:
    """One response as token ids."""

    ids: list[int]
    """With EOS where it ended."""
    ended: bool


@dataclass(frozen=True)
class TokenScores:
    """Of each token of a response, given everything before it; [R] nats each."""

    logprobs: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class SeededRows(Draws):
    """Random numbers by a seed of each row's own, so that they depend on nothing else."""

    seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, seeds: Sequence[int]) -> SeededRows:
        """One seed for each row."""
        return cls((0, "", 0, 0), list(range(len(seeds))), tuple(seeds))

    def uniforms(self, count: int) -> Tensor:
        rows = [torch.rand(count, generator=torch.Generator().manual_seed(s), dtype=torch.float32) for s in self.seeds]
        return torch.stack(rows)

    def row_seed(self, index: int) -> int:
        return self.seeds[index]

    def batch_seed(self, indices: Sequence[int]) -> int:
        text = ",".join(str(self.seeds[i]) for i in indices)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class EvaluatedModel:
    """A causal LM in memory, as the base it is or as an adapter on one that others share."""

    def __init__(
        self,
        name: str,
        place: tuple[Backbone, str | None],
        template: PromptTemplate,
        engine: RolloutEngine,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """
        Args:
            name: What the settings call it.
            place: Backbone, and adapter on it.
            template: Turns prompts and responses into its token ids.
            engine: What decodes.
            dtype: Precision of the weights.
            device: Where it is.
        """
        self.name, self.template, self.device = name, template, device
        self.backbone, self.adapter = place
        self._engine, self._dtype = engine, dtype

    @property
    def pad_id(self) -> int:
        """Fills up rows; masked everywhere, so EOS will do where there is no PAD."""
        pad_id = self.template.tokenizer.pad_token_id
        return self.template.eos_id if pad_id is None else int(pad_id)

    @contextmanager
    def active(self) -> Iterator[Backbone]:
        """Its weights active on the backbone, in the precision of the evaluation, without gradients."""
        with torch.no_grad(), self._autocast(), self.backbone.using(self.adapter):
            yield self.backbone

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampling: SamplingSettings,
        on_token: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """One response per prompt.

        Up to rounding a response depends on its prompt, its seed and the settings, and not on its neighbours.

        Args:
            prompts: Token ids, such as `template.encode_prompt` gives.
            seeds: One each.
            sampling: Length limit, temperature (0 takes the most likely token), decoding batch.
            on_token: Called with the number of tokens sampled since the last call.
        """
        batch = collate_prompts([PromptItem(list(ids), "") for ids in prompts], self.pad_id).to(self.device)
        request = Request(batch.prompt_ids, batch.prompt_mask, SeededRows.of(seeds), self.template.eos_id, self.pad_id)
        with torch.no_grad(), self._autocast():
            out = self._engine.generate(self.backbone, self.adapter, request, sampling, on_token)
        ids, lengths = out.response_ids.tolist(), out.response_mask.sum(1).tolist()
        cut = out.truncated.tolist()
        return [Sampled(ids[i][: lengths[i]], not cut[i]) for i in range(len(ids))]

    def token_scores(
        self, pairs: Sequence[TokenPair], temperature: float = 1.0, batch_tokens: int = 4096
    ) -> list[TokenScores]:
        """Log-probability and entropy of every token of the second part of each pair.

        Args:
            pairs: What comes before, and what is asked about.
            temperature: Divides the logits; must be above 0.
            batch_tokens: Tokens of a forward; a longer sequence goes alone.
        """
        lengths = torch.tensor([len(before) + len(after) for before, after in pairs])
        order = lengths.argsort(stable=True)
        scores: list[Any] = [None] * len(pairs)
        for part in split_by_tokens(lengths[order], batch_tokens):
            rows = order[part].tolist()
            for row, found in zip(rows, self._forward([pairs[i] for i in rows], temperature), strict=True):
                scores[row] = found
        return scores

    def _forward(self, pairs: Sequence[TokenPair], temperature: float) -> list[TokenScores]:
        ids = torch.tensor([t for before, after in pairs for t in (*before, *after)], device=self.device)
        lengths = torch.tensor([len(before) + len(after) for before, after in pairs], device=self.device)
        asked = torch.cat([torch.arange(len(b) + len(a)) >= len(b) for b, a in pairs]).to(self.device)
        places = asked.nonzero().squeeze(1)
        with self.active() as backbone:
            hidden = backbone.hidden_ragged(from_lengths(ids, lengths))[places - 1]
            logprobs, entropy = token_logprobs(hidden, ids[places], backbone.unembed, temperature)
        sizes = [len(after) for _, after in pairs]
        return [TokenScores(*s) for s in zip(logprobs.cpu().split(sizes), entropy.cpu().split(sizes), strict=True)]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32)


def vocabulary_fingerprint(tokenizer: Any) -> str:
    """Equal for tokenizers whose token ids mean the same."""
    entries = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr((entries, tokenizer.eos_token_id)).encode()).hexdigest()
