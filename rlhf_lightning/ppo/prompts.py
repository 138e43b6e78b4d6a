"""Prompts to roll out from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rlhf_lightning.data.item_store import pack_integers, unpack_integers
from rlhf_lightning.data.kinds import Prompt
from rlhf_lightning.datamodule import LoadingSettings, OnBad, OnLong, StageDataModule, naming, pad
from rlhf_lightning.prompt_template import plain_text
from rlhf_lightning.seeding import generator


@dataclass(frozen=True)
class PromptItem:
    """One prompt: its tokens, and its text for tables."""

    ids: list[int]
    text: str

    def packed(self) -> bytes:
        """Their number, the ids, and the text as UTF-8."""
        return pack_integers([len(self.ids)], self.ids) + self.text.encode()

    @classmethod
    def unpacked(cls, data: bytes) -> PromptItem:
        end = 4 * (1 + unpack_integers(data[:4])[0])
        return cls(unpack_integers(data[4:end]), data[end:].decode())


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

    def to(self, device: torch.device) -> PromptBatch:
        return PromptBatch(self.prompt_ids.to(device), self.prompt_mask.to(device), self.texts, self.rows)


def collate_prompts(items: Sequence[PromptItem], pad_id: int, rows: Sequence[int] | None = None) -> PromptBatch:
    """Prompts to a batch; `rows` are their numbers, by default from 0."""
    return PromptBatch(
        pad([i.ids for i in items], pad_id, left=True),
        pad([[True] * len(i.ids) for i in items], False, left=True),
        [i.text for i in items],
        list(range(len(items)) if rows is None else rows),
    )


class Numbered(Dataset[tuple[int, PromptItem]]):
    """Items with their row numbers."""

    def __init__(self, items: Sequence[PromptItem]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[int, PromptItem]:
        return row, self.items[row]


class PromptStream:
    """Prompts without end: pass after pass, each in its own order, a batch per iteration.

    The batch of an iteration is a function of (seed, iteration), so a resumed run needs no position.
    """

    def __init__(self, items: Sequence[PromptItem], batch_size: int, seed: int, pad_id: int) -> None:
        self.items, self.batch_size, self.seed, self.pad_id = items, batch_size, seed, pad_id

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
            batch_size: Prompts of an iteration, over all processes (C.4: 512).
            val_batch_size: Prompts of a validation batch.
            max_prompt_tokens: Longest prompt (App. C: 1k).
            on_bad_row: "skip" counts and lists broken rows instead of stopping at the first.
            on_long_prompt: "drop" leaves out prompts over the limit, with a count.
            limit: Read at most this many rows of each file list.
            num_workers: Loader processes of validation.
            seed: Seed of the prompt order; by default the run's.
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

    def setup(self, stage: str) -> None:
        for split in self.unread():
            self.items[split] = self.read(split, Prompt, PromptItem, self._tokenize)

    def _tokenize(self, row: Prompt) -> PromptItem | None:
        with naming(row):
            ids = self.template.encode_prompt(row.prompt)
        if not self.limits.prompt_fits(ids, f"{row.file}:{row.line}"):
            return None
        self.check_row(ids, row)
        return PromptItem(ids, plain_text(row.prompt))

    def train_dataloader(self) -> PromptStream:
        return PromptStream(self.items["train"], self.batch_size, self.seed, self.template.tokenizer.pad_token_id)

    def eval_items(self, split: str) -> Any:
        return Numbered(self.items[split])

    def collate_eval(self, items: list[tuple[int, PromptItem]]) -> PromptBatch:
        rows, prompts = zip(*items, strict=True)
        return collate_prompts(prompts, self.template.tokenizer.pad_token_id, list(rows))
