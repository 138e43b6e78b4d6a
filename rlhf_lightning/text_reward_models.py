"""Reward models that read text: with a tokenizer, a prompt template and a size of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlhf_lightning.artefacts import Source
from rlhf_lightning.data.kinds import PromptLike
from rlhf_lightning.errors import UserError
from rlhf_lightning.memory import split_by_tokens
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import attach_adapter, build_head, merge_into
from rlhf_lightning.models.limits import load_limits
from rlhf_lightning.models.loading import load_causal_lm, load_tokenizer
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.ragged import from_lengths
from rlhf_lightning.prompt_template import PromptTemplate, as_messages, plain_text

SHORTEN = "Lower data.init_args.max_prompt_tokens or model.init_args.sampling.max_response_tokens."
"""What to do about a text that is too long, by PPO's keys."""
_SHOWN = 80
"""Characters of a prompt or response in a message."""


class RewardError(UserError):
    """A reward could not be computed."""


class Prompted(Protocol):
    """Anything that has a prompt."""

    @property
    def prompt(self) -> PromptLike: ...


class RewardReader:
    """From texts to the token ids of a reward model, or to an error that says which text it cannot read."""

    def __init__(self, source: Source, key: str, trust_remote_code: bool = False, shorten: str = SHORTEN) -> None:
        """
        Args:
            source: A reward artefact.
            key: Where in the configuration it stands.
            trust_remote_code: Run code that comes with the model.
            shorten: What to do about a text that is longer than its context.

        Raises:
            UserError: Its tokenizer or its configuration cannot be read.
        """
        assert source.info is not None
        self.source, self.key, self._name = source, key, str(source.adapter or source.model)
        self._shorten = shorten
        tokenizer = load_tokenizer(source.tokenizer, None, key, trust_remote_code)
        self.template = PromptTemplate(tokenizer, source.info.prompt_format)
        self.limits = load_limits(source.model, key, trust_remote_code)

    def prompt(self, prompt: PromptLike) -> list[int]:
        """Token ids of a prompt.

        Raises:
            UserError: The tokenizer cannot encode it, or it fills the model's context.
        """
        for message in as_messages(prompt):
            self._require_known(message.content, f"the prompt {shown(plain_text(prompt))}")
        ids = self.template.encode_prompt(prompt)
        self._require_room(ids, f"the prompt {shown(plain_text(prompt))}")
        return ids

    def sequence(self, prompt: PromptLike, response: str, ended: bool) -> list[int]:
        """Token ids of a prompt and its response, with EOS if it has ended.

        Raises:
            RewardError: The tokenizer cannot encode it, or it is longer than the model's context.
        """
        where = f"the response {shown(response)} to {shown(plain_text(prompt))}"
        self._require_known(response, where)
        own = self.template.encode_response(response)
        ids = self.prompt(prompt) + (own if ended else own[:-1])
        self._require_room(ids, where)
        return ids

    def _require_known(self, text: str, where: str) -> None:
        """The text itself is asked, for a template may hold the token that also stands for the unknown."""
        tokenizer, ids = self.template.tokenizer, []
        unknown = tokenizer.unk_token_id
        with suppress(Exception):  # some have no token for the unknown and raise types of their own
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if unknown is not None and unknown in ids and tokenizer.unk_token not in text:
            problem = f"{ids.count(unknown)} of its {len(ids)} tokens are unknown ({tokenizer.unk_token})"
        elif text.strip() and not ids:
            problem = "it gives no tokens"
        else:
            return
        raise RewardError(
            f"{self.key}: the tokenizer in {self._name!r} cannot encode {where}: {problem}. "
            "Take a reward model that knows such text."
        )

    def _require_room(self, ids: Sequence[int], where: str) -> None:
        if self.limits.context is not None and len(ids) > self.limits.context:
            raise RewardError(
                f"{self.key}: {where} has {len(ids)} tokens for the model in {self._name!r}, whose context length is "
                f"{self.limits.context}. {self._shorten}"
            )
        self.limits.check_vocabulary(ids, f"{self.key}: {where}")


class TextRewardModel(nn.Module):
    """A frozen reward model that scores prompts and responses from their text."""

    def __init__(self, reader: RewardReader, micro_batch_tokens: int) -> None:
        """
        Args:
            reader: Its tokenizer.
            micro_batch_tokens: Tokens of a forward.
        """
        super().__init__()
        self.reader, self.micro_batch_tokens = reader, micro_batch_tokens
        self._place: tuple[Backbone, str | None] | None = None

    def build(
        self, lora: LoraSettings | None, dtype: torch.dtype, trust: bool, shared: tuple[Backbone, str, str] | None
    ) -> None:
        """Load the weights.

        Args:
            lora: With adapters, the base is kept as they want it; null merges the model's own into its weights.
            dtype: Of the weights.
            trust: Run code that comes with the model.
            shared: A backbone, the name of its base model, and a free adapter name on it: an adapter on that base
                needs no weights of its own.
        """
        source, key = self.reader.source, self.reader.key
        if lora is not None and source.adapter and shared is not None and source.model == shared[1]:
            backbone, adapter = shared[0], shared[2]
            attach_adapter(backbone, adapter, source, lora, key, trainable=False)
            self._place = backbone, adapter  # in a tuple: it is a module of its owner already
        else:
            lm = load_causal_lm(source.model, dtype, key, trust, lora.base_bits if lora else None)
            if source.adapter and lora is None:
                lm = merge_into(lm, source, key)
            self.backbone = Backbone(lm)
            if source.adapter and lora is not None:
                attach_adapter(self.backbone, "reward", source, lora, key, trainable=False)
            self._place = self.backbone, "reward" if source.adapter and lora is not None else None
        self.head = build_head(source, self._place[0].hidden_size, 0, key).requires_grad_(False)

    @torch.no_grad()
    def score(
        self, rows: Sequence[Prompted], responses: Sequence[str], ended: Sequence[bool], on_rows: Callable[[int], None]
    ) -> list[float]:
        """One score for each response, read at its last token.

        Args:
            rows: The prompts.
            responses: Their texts.
            ended: Whether each ended with EOS, which the model then reads too.
            on_rows: Called with the number of rows done.

        Raises:
            RewardError: A text that the tokenizer or the model cannot take.
        """
        ids = [
            self.reader.sequence(row.prompt, response, end)
            for row, response, end in zip(rows, responses, ended, strict=True)
        ]
        lengths = torch.tensor([len(row) for row in ids])
        order = lengths.argsort(stable=True)
        scores = torch.zeros(len(ids), dtype=torch.float32)  # by name: the default is 16 bit in "-true" precisions
        for part in split_by_tokens(lengths[order], self.micro_batch_tokens):
            index = order[part]
            scores[index] = self._forward([ids[i] for i in index.tolist()]).cpu()
            on_rows(len(index))
        return scores.tolist()

    def _forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        assert self._place is not None
        backbone, adapter = self._place
        device = self.head.weight.device
        lengths = torch.tensor([len(row) for row in ids], device=device)
        tokens = torch.tensor([token for row in ids for token in row], device=device)
        with backbone.using(adapter):
            hidden = backbone.hidden_ragged(from_lengths(tokens, lengths))
        scores: Tensor = self.head(hidden[lengths.cumsum(0) - 1])
        return scores


def shown(value: object) -> str:
    """The beginning of a value, in quotes if it is a text."""
    text = repr(value[:_SHOWN] if isinstance(value, str) else value)
    cut = len(value) > _SHOWN if isinstance(value, str) else len(text) > _SHOWN
    return f"{text[: _SHOWN + 2]}..." if cut else text


@contextmanager
def failing_together(strategy: Any) -> Iterator[None]:
    """Where a reward or a score failed on one process, end them all: the others would wait for it for ever.

    Args:
        strategy: Lightning's, of the run.

    Raises:
        RewardError: One failed.
    """
    failure = None
    try:
        yield
    except UserError as error:
        failure = error
    if strategy.reduce_boolean_decision(failure is not None, all=False):
        raise failure or RewardError("A reward or a score failed on another process, which says for which prompt.")
