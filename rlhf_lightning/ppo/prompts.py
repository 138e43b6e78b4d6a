"""Prompts to roll out from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf_lightning.data.item_store import Numbered, pack_integers, unpack_integers
from rlhf_lightning.data.kinds import Message, Prompt, PromptLike
from rlhf_lightning.data.length_limits import OnLong
from rlhf_lightning.datamodule import LoadingSettings, OnBad, StageDataModule, naming, pad
from rlhf_lightning.ppo.ptx import LENGTH_KEY, PtxSettings, check_ptx
from rlhf_lightning.pretraining_text import PretrainingText, read_pretraining
from rlhf_lightning.prompt_template import plain_text
from rlhf_lightning.seeding import generator


class PromptRow:
    """A prompt as it was given, and the other fields of its row: for rewards that read text.

    Not a dataclass: Lightning takes those apart under 16-bit precision, and refuses frozen ones (`Message`) inside.
    """

    def __init__(self, prompt: PromptLike, fields: dict[str, Any] | None = None) -> None:
        self.prompt, self.fields = prompt, fields or {}

    @classmethod
    def of(cls, row: Prompt) -> PromptRow:
        """The row's fields by their names in the file; those it does not have are left out."""
        named = ("id", "source", "category", "labeler", "labeler_group")
        about = {name: getattr(row, name) for name in named if getattr(row, name) is not None}
        return cls(row.prompt, about | ({"flags": list(row.flags)} if row.flags else {}) | row.meta)

    def packed(self) -> bytes:
        """JSON; what JSON does not know, such as a table's dates, as its text."""
        chat = self.prompt if isinstance(self.prompt, str) else [[m.role, m.content] for m in self.prompt]
        return json.dumps([chat, self.fields], default=str).encode()

    @classmethod
    def unpacked(cls, data: bytes) -> PromptRow:
        chat, fields = json.loads(data)
        return cls(chat if isinstance(chat, str) else tuple(Message(*turn) for turn in chat), fields)


@dataclass(frozen=True)
class PromptItem:
    """One prompt: its tokens, its text for tables, and the row it comes from."""

    ids: list[int]
    text: str
    row: PromptRow | None = None

    def packed(self) -> bytes:
        """Two lengths, the ids, the text as UTF-8, and the row."""
        text = self.text.encode()
        return pack_integers([len(self.ids), len(text)], self.ids) + text + (self.row.packed() if self.row else b"")

    @classmethod
    def unpacked(cls, data: bytes) -> PromptItem:
        num_ids, num_bytes = unpack_integers(data[:8])
        text = 4 * (2 + num_ids)
        row = text + num_bytes
        given = PromptRow.unpacked(data[row:]) if len(data) > row else None
        return cls(unpack_integers(data[8:text]), data[text:row].decode(), given)

    def lengths(self) -> tuple[int, list[int]]:
        """Tokens of the prompt; there is no response yet."""
        return len(self.ids), []


@dataclass  # not frozen: Lightning rebuilds batches field by field under 16-bit precision
class PromptBatch:
    """Prompts padded left, so that their last tokens are aligned for decoding."""

    prompt_ids: Tensor
    """[B, P]"""
    prompt_mask: Tensor
    """Bool [B, P]"""
    texts: list[str]
    rows: list[int]
    """Row number of each prompt, which its random numbers go by: in the iteration, or in the validation data."""
    given: list[PromptRow] = field(default_factory=list)
    """The rows as they were given; by default their texts are all there is."""

    def __post_init__(self) -> None:
        self.given = self.given or [PromptRow(text) for text in self.texts]

    def to(self, device: torch.device) -> PromptBatch:
        ids, mask = self.prompt_ids.to(device), self.prompt_mask.to(device)
        return PromptBatch(ids, mask, self.texts, self.rows, self.given)


def collate_prompts(items: Sequence[PromptItem], pad_id: int, rows: Sequence[int] | None = None) -> PromptBatch:
    """Prompts to a batch; `rows` are their numbers, by default from 0."""
    return PromptBatch(
        pad([i.ids for i in items], pad_id, left=True),
        pad([[True] * len(i.ids) for i in items], False, left=True),
        [i.text for i in items],
        list(range(len(items)) if rows is None else rows),
        [i.row or PromptRow(i.text) for i in items],
    )


class PromptStream:
    """Prompts without end: pass after pass, each in its own order, a batch per iteration.

    The batch of an iteration is a function of (seed, iteration), so a resumed run needs no position.
    """

    def __init__(
        self,
        items: Sequence[PromptItem],
        batch_size: int,
        seed: int,
        pad_id: int,
        pretraining: PretrainingText | None = None,
    ) -> None:
        """
        Args:
            items: Prompts.
            batch_size: Prompts of an iteration.
            seed: Seed of the order.
            pad_id: Token for padding.
            pretraining: What PPO-ptx takes its sequences from.
        """
        self.items, self.batch_size, self.seed, self.pad_id = items, batch_size, seed, pad_id
        self.pretraining = pretraining

    def rows(self, iteration: int) -> list[int]:
        """Row numbers of an iteration's prompts, all ranks together."""
        chosen: list[int] = []
        position = iteration * self.batch_size
        while len(chosen) < self.batch_size:
            pass_number, start = divmod(position + len(chosen), len(self.items))
            order = torch.randperm(len(self.items), generator=generator(self.seed, "prompts", pass_number))
            chosen += order[start : start + self.batch_size - len(chosen)].tolist()
        return chosen

    def batch(self, iteration: int, own: Sequence[int] | None = None) -> PromptBatch:
        """Prompts of an iteration: those at positions `own`, or all."""
        chosen = self.rows(iteration)
        own = range(len(chosen)) if own is None else own
        return collate_prompts([self.items[chosen[i]] for i in own], self.pad_id, own)

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[PromptBatch]:
        return (self.batch(i) for i in range(len(self)))


class PromptDataModule(StageDataModule):
    """Prompts for PPO. One Lightning epoch is one iteration, and takes `batch_size` prompts."""

    stage: ClassVar[str] = "ppo"
    shorten: ClassVar[str] = "data.init_args.max_prompt_tokens or model.init_args.sampling.max_response_tokens"

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        pretrain: str | list[str] | None = None,
        batch_size: int = 512,
        val_batch_size: int = 64,
        max_prompt_tokens: int = 1000,
        on_bad_row: OnBad = "error",
        on_long_prompt: OnLong = "error",
        limit: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            train: Files, globs or Hub names of prompts.
            val: The same for validation; without it there is none.
            pretrain: Files, globs or Hub names of pretraining text, for PPO-ptx (model.init_args.ptx).
            batch_size: Prompts of an iteration, over all processes (C.4: 512).
            val_batch_size: Prompts of a validation batch of each process.
            max_prompt_tokens: Longest prompt (App. C: 1k).
            on_bad_row: "skip" counts and lists broken rows instead of stopping at the first.
            on_long_prompt: "drop" leaves out prompts over the limit, with a count.
            limit: Read at most this many rows of each file list.
            num_workers: Loader processes of validation.
            seed: Seed of the order of prompts and of pretraining text; by default the run's.
        """
        sources = {"train": train, "val": val}
        loading = LoadingSettings(
            sources,
            batch_size,
            val_batch_size,
            max_prompt_tokens,
            None,
            on_bad_row,
            on_long_prompt,
            limit,
            num_workers,
            seed,
        )
        super().__init__(loading, locals())
        self.pretrain = pretrain
        self.pretraining: PretrainingText | None = None

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._setup_pretraining()
        for split in self.unread():
            self.items[split] = self.read(split, Prompt, PromptItem, self._tokenize)

    def _setup_pretraining(self) -> None:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        settings: PtxSettings = module.ptx.settings
        check_ptx(settings, self.pretrain is not None)
        if self.pretrain is not None and self.pretraining is None:
            sequences = read_pretraining(self, self.pretrain, settings.context_tokens, LENGTH_KEY)
            self.pretraining = PretrainingText(sequences, self.seed)

    def _tokenize(self, row: Prompt) -> PromptItem | None:
        with naming(row):
            ids = self.template.encode_prompt(row.prompt)
        if not self.limits.prompt_fits(ids, f"{row.file}:{row.line}"):
            return None
        self.check_row(ids, row)
        given = PromptRow.of(row)
        self.check_prompt(given, f"{row.file}:{row.line}")
        return PromptItem(ids, plain_text(row.prompt), given)

    def check_prompt(self, row: PromptRow, where: str) -> None:
        """Let the module see whether all its rewards can read a prompt, before training starts."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        if hasattr(module, "rewards"):
            module.rewards.check_prompt(row.prompt, where)

    def train_dataloader(self) -> PromptStream:
        pad_id = self.template.tokenizer.pad_token_id
        return PromptStream(self.items["train"], self.batch_size, self.seed, pad_id, self.pretraining)

    def eval_items(self, split: str) -> Any:
        return Numbered(self.items[split])

    def collate_eval(self, items: list[tuple[int, PromptItem]]) -> PromptBatch:
        rows, prompts = zip(*items, strict=True)
        return collate_prompts(prompts, self.template.tokenizer.pad_token_id, list(rows))
