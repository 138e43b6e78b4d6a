"""Responses of several models to the same prompts, with the same random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rlhf_lightning.artefacts import Source
from rlhf_lightning.data.kinds import PromptLike
from rlhf_lightning.logprobs import token_logprobs
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import attach_adapter, build_head
from rlhf_lightning.models.loading import load_causal_lm, load_tokenizer
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.ragged import Ragged, from_lengths
from rlhf_lightning.ppo.prompts import PromptItem, collate_prompts
from rlhf_lightning.ppo.rollout import Rollout, sample_rollout
from rlhf_lightning.prompt_template import PromptTemplate, plain_text
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings

REWARD = "_reward"


@dataclass(frozen=True)
class Response:
    """One response and what is known of it."""

    text: str
    ended: bool
    """It finished with EOS within the limit."""
    tokens: int
    score: float
    """Reward-model score; NaN without a reward model."""
    kl: float
    """log p_model - log p_reference summed over the response, nats."""


class Panel:
    """Several models, one of them the KL reference, and a reward model, on as few bases as possible."""

    def __init__(
        self,
        models: dict[str, Source],
        reference: str,
        reward: Source | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        """
        Args:
            models: Name to source; adapters on one base share it.
            reference: The name that KL is measured to.
            reward: A reward artefact, to score responses.
            dtype: Precision of the weights.
            device: Where to compute.
            trust_remote_code: Run code that comes with a model. Only for authors you trust.
        """
        self.reference = reference
        self._bases: dict[str, Backbone] = {}
        self._places: dict[str, tuple[Backbone, str | None]] = {}
        self._dtype, self._device, self._trust = dtype, device, trust_remote_code
        for name, source in models.items():
            self._place(name, source)
        first = models[reference]
        prompt_format = first.info.prompt_format if first.info else "{prompt}\n\n"
        tokenizer = load_tokenizer(first.tokenizer, trust_remote_code=trust_remote_code)
        self.template = PromptTemplate(tokenizer, prompt_format)
        self._head = None
        if reward is not None:
            self._place(REWARD, reward)
            self._head = build_head(reward, self._places[REWARD][0].hidden_size, 0, "reward").to(device)

    def _place(self, name: str, source: Source) -> None:
        if source.model not in self._bases:
            lm = load_causal_lm(source.model, self._dtype, name, self._trust)
            self._bases[source.model] = Backbone(lm.to(self._device))
        base = self._bases[source.model]
        if source.adapter:
            attach_adapter(base, name, source, LoraSettings(), name, trainable=False)
            base.to(self._device)
        self._places[name] = (base, name if source.adapter else None)

    @torch.no_grad()
    def respond(
        self,
        name: str,
        prompts: Sequence[PromptLike],
        sampling: SamplingSettings,
        seed: int,
        purpose: str,
        measure: bool = True,
    ) -> list[Response]:
        """One response per prompt from a model.

        The random numbers depend on (seed, purpose, position of the prompt), not on the model or on the batch.

        Args:
            name: The model.
            prompts: What to answer.
            sampling: Length limit, temperature, decoding batch.
            seed: Seed of the random numbers.
            purpose: What the responses are for.
            measure: Compute score and KL as well; without, they are NaN.
        """
        items = [PromptItem(self.template.encode_prompt(p), plain_text(p)) for p in prompts]
        backbone, adapter = self._places[name]
        out: list[Response] = []
        with tqdm(total=len(items), desc=f"{name}: {purpose}", unit="prompt", leave=False) as bar, self._autocast():
            for start in range(0, len(items), sampling.batch_size):
                part = items[start : start + sampling.batch_size]
                batch = collate_prompts(part, self._pad_id, range(start, start + len(part)))
                key = (seed, purpose, 0, 0)
                batch = batch.to(torch.device(self._device))
                ids = self.template.eos_id, self._pad_id
                rollout = sample_rollout(NativeEngine(), backbone, adapter, batch, sampling, key, *ids)
                out += self._describe(name, rollout, measure)
                bar.update(len(batch.texts))
        return out

    @torch.no_grad()
    def score_texts(self, prompts: Sequence[PromptLike], responses: Sequence[tuple[str, bool]]) -> list[float]:
        """Reward-model scores of given (text, ended) responses, one per prompt."""
        pairs = [
            (self.template.encode_prompt(p), self.template.encode_response(text)[: None if ended else -1])
            for p, (text, ended) in zip(prompts, responses, strict=True)
        ]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        scores = [0.0] * len(pairs)
        with self._autocast():
            for start in tqdm(range(0, len(order), 32), desc="scoring", unit="batch", leave=False):
                rows = order[start : start + 32]
                ids = [pairs[i][0] + pairs[i][1] for i in rows]
                lengths = torch.tensor([len(x) for x in ids], device=self._device)
                tokens = from_lengths(torch.tensor([t for x in ids for t in x], device=self._device), lengths)
                for i, s in zip(rows, self._score(tokens, lengths.cumsum(0) - 1), strict=True):
                    scores[i] = float(s)
        return scores

    @property
    def _pad_id(self) -> int:
        return int(self.template.tokenizer.pad_token_id)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.split(":")[0], self._dtype, enabled=self._dtype != torch.float32)

    def _score(self, tokens: Ragged, ends: Tensor) -> Tensor:
        assert self._head is not None
        backbone, adapter = self._places[REWARD]
        with backbone.using(adapter):
            scores: Tensor = self._head(backbone.hidden_ragged(tokens)[ends])
        return scores

    def _logprob(self, name: str, rollout: Rollout) -> Tensor:
        """Log-probability of each whole response under a model; [B] nats."""
        backbone, adapter = self._places[name]
        targets = rollout.response_ids[rollout.response_mask]
        with backbone.using(adapter):
            hidden = backbone.hidden_ragged(rollout.sequences.tokens)[rollout.sequences.before]
            logprobs, _ = token_logprobs(hidden, targets, backbone.unembed, with_entropy=False)
        rows = rollout.response_mask.nonzero()[:, 0]
        return torch.zeros(len(rollout), device=logprobs.device).index_add(0, rows, logprobs)

    def _describe(self, name: str, rollout: Rollout, measure: bool) -> list[Response]:
        described = []
        for index in torch.arange(len(rollout)).split(32):
            part = rollout.rows(index)
            kl = scores = torch.full((len(part),), float("nan"))
            if measure:
                kl = torch.zeros(len(part))
                if name != self.reference:
                    kl = self._logprob(name, part) - self._logprob(self.reference, part)
                if self._head is not None:
                    scores = self._score(part.sequences.tokens, part.sequences.ends)
            for i in range(len(part)):
                tokens = part.response_ids[i][part.response_mask[i]].tolist()
                text, ended = self.template.decode(tokens), not bool(part.truncated[i])
                described.append(Response(text, ended, len(tokens), float(scores[i]), float(kl[i])))
        return described
