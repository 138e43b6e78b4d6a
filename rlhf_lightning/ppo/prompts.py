"""Prompts to roll out from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.data.item_store import pack_integers, unpack_integers
from rlhf_lightning.data.kinds import Prompt
from rlhf_lightning.datamodule import LoadingSettings, OnBad, OnLong, StageDataModule, pad
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

    def to(self, device: torch.device) -> PromptBatch:
        return PromptBatch(self.prompt_ids.to(device), self.prompt_mask.to(device), self.texts)


def collate_prompts(items: list[PromptItem], pad_id: int) -> PromptBatch:
    """Prompts to a batch."""
    return PromptBatch(
        pad([i.ids for i in items], pad_id, left=True),
        pad([[True] * len(i.ids) for i in items], False, left=True),
        [i.text for i in items],
    )


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

    def batch(self, iteration: int, rank: int = 0, world_size: int = 1) -> PromptBatch:
        """The prompts of an iteration that a rank rolls out."""
        return collate_prompts([self.items[i] for i in self.rows(iteration)[rank::world_size]], self.pad_id)

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[PromptBatch]:
        return (self.batch(i) for i in range(len(self)))


class PromptDataModule(StageDataModule):
    """Prompts for PPO. One Lightning epoch is one iteration, and takes `batch_size` prompts."""

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
            0,
            on_bad_row,
            on_long_prompt,
            limit,
            num_workers,
            seed,
        )
        super().__init__(loading)

    def setup(self, stage: str) -> None:
        for split in self.unread():
            self.items[split] = self.read(split, Prompt, PromptItem, self._tokenize)

    def _tokenize(self, row: Prompt) -> PromptItem | None:
        ids = self.template.encode_prompt(row.prompt)
        fits = self.limits.prompt_fits(ids, f"{row.file}:{row.line}")
        return PromptItem(ids, plain_text(row.prompt)) if fits else None

    def train_dataloader(self) -> PromptStream:
        return PromptStream(self.items["train"], self.batch_size, self.seed, self.template.tokenizer.pad_token_id)

    def collate(self, items: list[PromptItem]) -> PromptBatch:
        return collate_prompts(items, self.template.tokenizer.pad_token_id)

    def state_dict(self) -> dict[str, Any]:
        return {}
