"""Demonstrations to batches."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rlhf_lightning.data.kinds import Demonstration
from rlhf_lightning.datamodule import LoadingSettings, OnBad, OnLong, StageDataModule, naming
from rlhf_lightning.sft.packing import PackedRows, SFTBatch, SFTExample, collate, pack, token_counts


class DemonstrationDataModule(StageDataModule):
    """Demonstrations (`prompt`/`response`, or chat `messages`) for supervised fine-tuning."""

    stage: ClassVar[str] = "sft"

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        batch_size: int = 32,
        val_batch_size: int | None = None,
        max_prompt_tokens: int = 1000,
        max_response_tokens: int = 1000,
        packing: bool = False,
        on_bad_row: OnBad = "error",
        on_long_prompt: OnLong = "error",
        limit: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            train: Files, globs or Hub names of demonstrations.
            val: The same for validation; without it there is none.
            batch_size: Rows of a batch (C.1: 32). With packing a row holds several demonstrations.
            val_batch_size: Rows of a validation batch; by default as in training.
            max_prompt_tokens: Longest prompt (App. C: 1k).
            max_response_tokens: Responses are cut here (App. C: 1k).
            packing: Put several demonstrations in one row of at most max_prompt_tokens + max_response_tokens;
                they do not see one another, and every token's loss stays what it was.
            on_bad_row: "skip" counts and lists broken rows instead of stopping at the first.
            on_long_prompt: "drop" leaves out rows with prompts over the limit, with a count.
            limit: Read at most this many rows of each file list.
            num_workers: Loader processes.
            seed: Seed of the row order; by default the run's.
        """
        sources = {"train": train, "val": val}
        super().__init__(
            LoadingSettings(
                sources,
                batch_size,
                val_batch_size,
                max_prompt_tokens,
                max_response_tokens,
                on_bad_row,
                on_long_prompt,
                limit,
                num_workers,
                seed,
            ),
            locals(),
        )
        self.packing = packing
        self.max_tokens = max_prompt_tokens + max_response_tokens

    def setup(self, stage: str) -> None:
        for split in self.unread():
            examples = self.read(split, Demonstration, SFTExample, self._tokenize)
            bins = pack(token_counts(examples), self.max_tokens) if self.packing else np.arange(len(examples))
            self.items[split] = PackedRows(examples, bins)

    def _tokenize(self, row: Demonstration) -> SFTExample | None:
        with naming(row):
            ids, is_response = self.template.encode_conversation(row.messages)
        first = is_response.index(True)
        if not self.limits.prompt_fits(ids[:first], f"{row.file}:{row.line}"):
            return None
        end = first + len(self.limits.cut_response(ids[first:]))
        self.check_row(ids[:end], row)
        return SFTExample(ids[:end], is_response[:end])

    def collate(self, items: list[list[SFTExample]]) -> SFTBatch:
        return collate(items, self.template.tokenizer.pad_token_id)
