"""A language model as evaluations ask it: continue this, how likely is that after this, how likely is this text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.token_pairs import TokenPair, scoring_batches, split_tokens, windows
from rlhf_lightning.logprobs import chunk_rows, token_logprobs
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.limits import ModelLimits
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.rollouts.engine import Draws, Request
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.seeding import generator


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    """Up to the first stop string, which is not part of it, without white space around it."""
    tokens: int
    """Sampled tokens, those of the stop string and EOS included."""
    ended: bool
    """It ended with EOS or a stop string within the limit."""
    cut: bool
    """The prompt's beginning did not fit into the model."""
    raw: str = ""
    """The text with that white space."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds a text."""

    logprob: float
    """Sum over its tokens, nats."""
    tokens: int
    greedy: bool | None = None
    """Each token was the most likely one; None where that was not asked for."""
    cut: bool = False
    """The context's beginning did not fit into the model."""


@dataclass(frozen=True)
class _OwnDraws(Draws):
    """A stream of random numbers for each row, so that only those of the rows at hand are drawn."""

    def uniforms(self, count: int) -> Tensor:
        seed, purpose, *_ = self.key
        rows = [torch.rand(count, generator=generator(seed, purpose, row)) for row in self.rows]
        return torch.stack(rows)


class LanguageModel:
    """One model: weights that may be shared, an adapter or none, and a tokenizer.

    Answers depend on nothing but the arguments: not on what else is in a batch (but for the rounding of sums), nor on
    what was asked before.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone,
        adapter: str | None,
        template: PromptTemplate,
        limits: ModelLimits,
        fingerprint: str = "",
        max_batch_tokens: int = 8192,
        max_cache_tokens: int = 16384,
    ) -> None:
        """
        Args:
            name: What it is called in results.
            backbone: Its weights, on the device where it is to compute.
            adapter: Name of its adapter on them; None is the base.
            template: Its tokenizer and prompt format.
            limits: Its context length.
            fingerprint: Hash of its weights; results of another model are not continued.
            max_batch_tokens: Tokens of one forward. Limits memory.
            max_cache_tokens: The same for the prompts and answers that are decoded together.
        """
        check_number("max_batch_tokens", max_batch_tokens, at_least=1)
        check_number("max_cache_tokens", max_cache_tokens, at_least=1)
        self.name, self.backbone, self.adapter, self.template = name, backbone, adapter, template
        self.limits, self.fingerprint = limits, fingerprint
        self.max_batch_tokens, self.max_cache_tokens = max_batch_tokens, max_cache_tokens
        self._engine = NativeEngine()
        self._stops: dict[str, Tensor] = {}

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = ("\n",),
        chat: bool = False,
        seed: int = 0,
        purpose: str = "generate",
        rows: Sequence[int] | None = None,
    ) -> list[Completion]:
        """One continuation of each prompt.

        The defaults are those of the paper's App. D: the most likely token each time, cut at the first line end.

        Args:
            prompts: Texts; the same one may be there several times.
            max_tokens: Continuations are stopped here.
            temperature: Divides the logits; 0 takes the most likely token.
            stop: A continuation ends before the first of these that it contains.
            chat: The prompt is a message to the assistant, and goes through the chat template.
            seed: Seed of the random numbers.
            purpose: What they are for.
            rows: A number for each prompt, by default its position: random numbers depend on (seed, purpose, row).
        """
        if not prompts:
            return []
        room = self.limits.context - max_tokens if self.limits.context is not None else None
        if room is not None and room < 1:
            raise UserError(
                f"max_tokens is {max_tokens}, which leaves no room for a prompt in the context of {self.name!r} "
                f"({self.limits.context} tokens). Lower it."
            )
        full = [self._prompt_ids(prompt, chat) for prompt in prompts]
        fitted = [ids if room is None else ids[-room:] for ids in full]
        numbers = list(range(len(prompts)) if rows is None else rows)
        out = self._decode(fitted, max_tokens, temperature, stop, _OwnDraws((seed, purpose, 0, 0), numbers))
        return [
            self._completion(ids, stop, len(fit) < len(whole))
            for ids, fit, whole in zip(out, fitted, full, strict=True)
        ]

    @torch.no_grad()
    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], chat: bool = False, with_greedy: bool = False
    ) -> list[Likelihood]:
        """Log-probability of each continuation after its context.

        Context and continuation are tokenized as one text; white space at the end of a context counts as the beginning
        of the continuation, because that is where tokenizers put it. After an empty context comes BOS, or EOS in
        a tokenizer without one.

        Args:
            pairs: (context, continuation); a continuation may not be empty.
            chat: The context is a message to the assistant, the continuation what it answers.
            with_greedy: Find out as well whether the continuation is what greedy decoding would write.
        """
        tokens = [self._pair(context, continuation, chat) for context, continuation in pairs]
        return self._score([p.fitted(self.limits.context) for p in tokens], with_greedy)

    @torch.no_grad()
    def text_nll(self, texts: Sequence[str], context_tokens: int | None = None) -> list[Likelihood]:
        """Log-probability of whole documents, without EOS.

        Args:
            texts: Documents that the tokenizer makes at least one token of.
            context_tokens: Length of the windows they are read in; by default, and at most, the model's context. The
                first token of a window is predicted from one token alone.
        """
        lengths = [n for n in (context_tokens, self.limits.context) if n is not None]
        pieces: list[TokenPair] = []
        owner: list[int] = []
        for number, text in enumerate(texts):
            ids = self._text_ids(text)
            for window in windows(ids, self.start_id, min(lengths, default=max(1, len(ids)))):
                pieces.append(window)
                owner.append(number)
        sums = [[0.0, 0] for _ in texts]
        for number, likelihood in zip(owner, self._score(pieces, False), strict=True):
            sums[number][0] += likelihood.logprob
            sums[number][1] += likelihood.tokens
        return [Likelihood(float(logprob), int(tokens)) for logprob, tokens in sums]

    def identity(self) -> dict[str, str]:
        """What answers depend on: the weights and their precision."""
        return model_identity(self.fingerprint, self.backbone.unembed.weight.dtype)

    @property
    def start_id(self) -> int:
        """The token that stands before the first one of a text: BOS, or EOS where there is none."""
        bos = self.template.tokenizer.bos_token_id
        return int(self.template.eos_id if bos is None else bos)

    @property
    def device(self) -> torch.device:
        weight: Tensor = self.backbone.unembed.weight
        return weight.device

    def _score(self, pairs: Sequence[TokenPair], with_greedy: bool) -> list[Likelihood]:
        out: dict[int, Likelihood] = {}
        with self._precision(), self.backbone.using(self.adapter):
            for batch in scoring_batches(pairs, self.max_batch_tokens, self.device):
                hidden = self.backbone.hidden_ragged(batch.tokens)[batch.before]
                logprobs, _ = token_logprobs(hidden, batch.targets, self.backbone.unembed, with_entropy=False)
                count = len(batch.numbers)
                sums = torch.zeros(count, dtype=torch.float64, device=logprobs.device)
                sums.index_add_(0, batch.rows, logprobs.double())
                greedy: list[bool] | list[None] = [None] * count
                if with_greedy:
                    missed = torch.zeros(count, device=logprobs.device)
                    missed.index_add_(0, batch.rows, (self._greedy(hidden) != batch.targets).float())
                    greedy = (missed == 0).tolist()
                for number, total, most_likely in zip(batch.numbers, sums.tolist(), greedy, strict=True):
                    pair = pairs[number]
                    out[number] = Likelihood(total, len(pair.continuation), most_likely, pair.cut)
        return [out[number] for number in range(len(pairs))]

    def _greedy(self, hidden: Tensor) -> Tensor:
        """The most likely token after each position, [M]; never more than a chunk of logits at once."""
        parts = hidden.split(chunk_rows(hidden.device))
        return torch.cat([self.backbone.unembed(part).argmax(-1) for part in parts])

    def _decode(
        self, prompts: list[list[int]], max_tokens: int, temperature: float, stop: Sequence[str], draws: Draws
    ) -> list[list[int]]:
        width = max(len(ids) for ids in prompts)
        pad_id = self.template.tokenizer.pad_token_id
        pad = self.template.eos_id if pad_id is None else int(pad_id)  # masked everywhere
        ids = torch.tensor([[*[pad] * (width - len(p)), *p] for p in prompts], device=self.device)
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        mask = torch.arange(width, device=self.device) >= (width - lengths).unsqueeze(1)
        request = Request(ids, mask, draws, self.template.eos_id, pad, self._stop_tokens(stop))
        together = max(1, self.max_cache_tokens // (width + max_tokens))
        sampling = SamplingSettings(max_tokens, temperature, min(together, len(prompts)))
        with self._precision():
            out = self._engine.generate(self.backbone, self.adapter, request, sampling)
        masks = out.response_mask.tolist()
        return [
            [t for t, valid in zip(row, keep, strict=True) if valid]
            for row, keep in zip(out.response_ids.tolist(), masks, strict=True)
        ]

    def _completion(self, ids: list[int], stop: Sequence[str], cut: bool) -> Completion:
        text = str(self.template.tokenizer.decode(ids, skip_special_tokens=True))
        ends = [place for s in stop if (place := text.find(s)) >= 0]
        ended = bool(ends) or ids[-1:] == [self.template.eos_id]
        text = text[: min(ends, default=len(text))]
        return Completion(text.strip(), len(ids), ended, cut, text)

    def _stop_tokens(self, stop: Sequence[str]) -> Tensor | None:
        """Bool [V]: tokens that hold a whole stop string. Longer ones that several tokens make are cut afterwards."""
        singles = [s for s in stop if len(s) == 1]
        if not singles:
            return None
        size = self.backbone.unembed.weight.shape[0]
        table = torch.zeros(size, dtype=torch.bool)
        for character in singles:
            if character not in self._stops:
                holds = [i for i, text in enumerate(self._token_texts) if character in text]
                self._stops[character] = torch.isin(torch.arange(size), torch.tensor(holds, dtype=torch.long))
            table |= self._stops[character]
        return table.to(self.device)

    @cached_property
    def _token_texts(self) -> list[str]:
        size = min(len(self.template.tokenizer), self.backbone.unembed.weight.shape[0])
        return list(self.template.tokenizer.batch_decode([[i] for i in range(size)]))

    def _prompt_ids(self, prompt: str, chat: bool) -> list[int]:
        ids = self.template.encode_prompt(prompt) if chat else list(self.template.tokenizer(prompt)["input_ids"])
        return ids or [self.start_id]

    def _text_ids(self, text: str) -> list[int]:
        return list(self.template.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _pair(self, context: str, continuation: str, chat: bool) -> TokenPair:
        assert continuation.strip(), "a continuation may not be empty"
        if chat:
            return TokenPair(tuple(self._prompt_ids(context, True)), tuple(self._text_ids(continuation.lstrip())))
        bare = context.rstrip()
        if not bare:
            return TokenPair((self.start_id,), tuple(self._text_ids(continuation.lstrip())))
        tokenizer = self.template.tokenizer
        return split_tokens(tokenizer(bare)["input_ids"], tokenizer(context + continuation)["input_ids"])

    @contextmanager
    def _precision(self) -> Iterator[None]:
        dtype: Any = self.backbone.unembed.weight.dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            yield


def model_identity(fingerprint: str, dtype: torch.dtype) -> dict[str, str]:
    """`LanguageModel.identity`, before the weights are loaded."""
    return {"weights": fingerprint, "dtype": str(dtype)}
