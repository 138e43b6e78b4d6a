"""The reward model's score of what the model answers to validation prompts (§3.5, C.1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lightning.artefacts import Source, open_source, source_fingerprint
from rlhf_lightning.data.item_store import ItemStore
from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, PromptLike
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.datamodule import StageDataModule, naming, pad
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import base_dtype
from rlhf_lightning.models.limits import ModelLimits
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.prompt_template import PromptTemplate, plain_text
from rlhf_lightning.rollouts.engine import Draws, Request
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.seeding import generator
from rlhf_lightning.sft.selection import KEY, SelectionSettings
from rlhf_lightning.text_reward_models import RewardReader, TextRewardModel

REWARD_KEY, PROMPTS_KEY = f"{KEY}.reward_from", f"{KEY}.prompts"
SHORTEN = f"{KEY}.max_response_tokens or data.init_args.max_prompt_tokens"
PURPOSE = "rm_score"


@dataclass(frozen=True)
class ValidationPrompt:
    """A prompt as the model reads it, and as it was given, for the reward model's own template."""

    ids: list[int]
    prompt: PromptLike

    def packed(self) -> bytes:
        chat = self.prompt if isinstance(self.prompt, str) else [[m.role, m.content] for m in self.prompt]
        return json.dumps([self.ids, chat]).encode()

    @classmethod
    def unpacked(cls, data: bytes) -> ValidationPrompt:
        ids, chat = json.loads(data)
        return cls(ids, chat if isinstance(chat, str) else tuple(Message(*turn) for turn in chat))


@dataclass(frozen=True)
class Answer:
    """A sampled response and its score."""

    prompt: str
    response: str
    score: float
    tokens: int
    ended: bool


class RMScore(nn.Module):
    """Samples responses to a fixed set of prompts with fixed random numbers, and scores them.

    The same prompts and the same numbers at every validation, so that scores differ by the weights alone.
    """

    def __init__(self, settings: SelectionSettings, micro_batch_tokens: int, trust_remote_code: bool) -> None:
        """
        Args:
            settings: With a reward model.
            micro_batch_tokens: Tokens of its forward.
            trust_remote_code: Run code that comes with it.

        Raises:
            UserError: No reward artefact there, or its tokenizer cannot be read.
        """
        super().__init__()
        assert settings.reward_from is not None
        self.settings, self._trust = settings, trust_remote_code
        self.source = open_source(settings.reward_from, REWARD_KEY, expect=("reward",))
        self.reward_model = TextRewardModel(
            RewardReader(self.source, REWARD_KEY, trust_remote_code, f"Lower {SHORTEN}."), micro_batch_tokens
        )
        self.prompts: list[ValidationPrompt] = []
        self.max_response_tokens = 0
        """Longest response; known when the prompts are read."""
        self._engine = NativeEngine()

    def fingerprint(self) -> dict[str, str]:
        """A hash of the reward model, by configuration key."""
        return {REWARD_KEY: source_fingerprint(self.source)}

    def build(self, backbone: Backbone, source: Source, lora: LoraSettings | None, precision: str) -> None:
        """Load the reward model's weights, where they can on the base that is trained upon.

        Args:
            backbone: Of the model that is trained.
            source: What it starts from.
            lora: Its adapters; None where all its weights are trained, so that nothing can be shared.
            precision: Lightning's. A frozen model needs no float32 copy.
        """
        frozen = lora or LoraSettings()
        shared = (backbone, source.model, "reward") if lora else None
        self.reward_model.build(frozen, base_dtype(precision, frozen), self._trust, shared)

    # -- prompts --------------------------------------------------------------------------------------------

    def read(self, data: StageDataModule, template: PromptTemplate, limits: ModelLimits, seed: int) -> None:
        """Read and check the prompts, and choose `num_prompts` of them; once.

        Args:
            data: Says where validation demonstrations are, and how to treat bad rows.
            template: Of the model that is trained.
            limits: Its limits.
            seed: Of the choice.

        Raises:
            UserError: A broken row, a prompt that leaves no room for a response in either model, or too few prompts.
        """
        if self.prompts:
            return
        self.max_response_tokens = self.settings.max_response_tokens or data.limits.max_response
        files, key = self.settings.prompts, PROMPTS_KEY
        kind: type[Prompt] | type[Demonstration] = Prompt
        if files is None:
            files, key, kind = data.sources["val"], "data.init_args.val", Demonstration
        assert files is not None
        stream: RowStream[Any] = RowStream(kind, files, key, data.on_bad_row, data.limit)
        items = ItemStore(ValidationPrompt, self._checked(stream, data, template, limits))
        if len(items) < 2:
            raise UserError(f"{key}: {KEY} needs 2 prompts or more, for a mean and its error; there is {len(items)}.")
        if kind is Prompt:
            data.limits.report("the prompts of model.init_args.select")
            data.record(PURPOSE, files, stream, len(items))
        order = torch.randperm(len(items), generator=generator(seed, f"{PURPOSE} prompts"))
        self.prompts = [items[i] for i in sorted(order[: self.settings.num_prompts].tolist())]

    def _checked(
        self, rows: RowStream[Any], data: StageDataModule, template: PromptTemplate, limits: ModelLimits
    ) -> Iterator[ValidationPrompt]:
        reader = self.reward_model.reader
        own = replace(limits, sampled=self.max_response_tokens)
        reads = replace(reader.limits, sampled=self.max_response_tokens)
        for row in rows:
            where = f"{row.file}:{row.line}"
            with naming(row):
                ids, read = template.encode_prompt(row.prompt), reader.prompt(row.prompt)
            # What is too long in a demonstration, the data module has refused or dropped (and said so) already.
            if isinstance(row, Demonstration) and len(ids) > data.limits.max_prompt:
                continue
            if not data.limits.prompt_fits(ids, where):
                continue
            own.check(ids, where, SHORTEN)
            reads.check(read, f"{where}: for the model in {REWARD_KEY}", SHORTEN)
            if not isinstance(row, Demonstration):  # those are in the data card already, as a split of their own
                data.card.split(PURPOSE, Prompt).add(row, len(ids))
            yield ValidationPrompt(ids, row.prompt)

    # -- scores ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def answers(
        self,
        backbone: Backbone,
        adapter: str | None,
        template: PromptTemplate,
        seed: int,
        rows: Sequence[int],
        on_token: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Sample and score responses to some of the prompts; each is a function of its number and the weights.

        Args:
            backbone: Where the model is that answers.
            adapter: Its adapter.
            template: Its template.
            seed: Of the random numbers.
            rows: Numbers of the prompts.
            on_token: Called with the number of tokens just sampled.
        """
        settings, found = self.settings, []
        # No recorded kernels: they would hold memory that training needs.
        length, size = self.max_response_tokens, settings.batch_size
        sampling = SamplingSettings(length, settings.temperature, size, cuda_graphs=False)
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            prompts = [self.prompts[i] for i in part]
            request = self._request(prompts, template, Draws((seed, PURPOSE, 0, 0), part))
            out = self._engine.generate(backbone, adapter, request, sampling, on_token)
            tokens = [ids[mask].tolist() for ids, mask in zip(out.response_ids, out.response_mask, strict=True)]
            found += self._scored(prompts, tokens, out.truncated, template)
        return found

    def _request(self, prompts: Sequence[ValidationPrompt], template: PromptTemplate, draws: Draws) -> Request:
        pad_id = int(template.tokenizer.pad_token_id)
        device = self.reward_model.head.weight.device
        ids = pad([p.ids for p in prompts], pad_id, left=True).to(device)
        mask = pad([[True] * len(p.ids) for p in prompts], False, left=True).to(device)
        return Request(ids, mask, draws, template.eos_id, pad_id)

    def _scored(
        self,
        prompts: Sequence[ValidationPrompt],
        tokens: Sequence[list[int]],
        truncated: Tensor,
        template: PromptTemplate,
    ) -> list[Answer]:
        texts, ended = [template.decode(ids) for ids in tokens], (~truncated).tolist()
        scores = self.reward_model.score(prompts, texts, ended, lambda _: None)
        return [
            Answer(plain_text(p.prompt), text, score, len(ids), end)
            for p, text, score, ids, end in zip(prompts, texts, scores, tokens, ended, strict=True)
        ]
