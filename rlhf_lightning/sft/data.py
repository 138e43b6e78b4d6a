"""Demonstrations to batches."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import numpy as np

from rlhf_lightning.bounds import check_number
from rlhf_lightning.data.kinds import Demonstration
from rlhf_lightning.data.length_limits import OnLong
from rlhf_lightning.datamodule import LoadingSettings, OnBad, StageDataModule, naming
from rlhf_lightning.errors import UserError
from rlhf_lightning.pretraining_text import KEY, PretrainingText, read_pretraining
from rlhf_lightning.sft.mixing import MixedRows, sequences_for
from rlhf_lightning.sft.packing import PackedRows, SFTBatch, SFTExample, collate, pack, token_counts

SHARE_KEY, LENGTH_KEY = "data.init_args.pretrain_share", "data.init_args.pretrain_tokens"
PAPERS_SHARE = 0.1


class DemonstrationDataModule(StageDataModule):
    """Demonstrations (`prompt`/`response`, or chat `messages`) for supervised fine-tuning.

    The model that PPO starts from is trained on pretraining text too (C.3: two epochs, 10 %), with the loss on all of
    its tokens. The paper does not say what the 10 % are of; here it is a share of tokens, which neither packing nor
    the length of sequences changes. The loss stays a mean over target tokens, whichever they belong to.
    """

    stage: ClassVar[str] = "sft"

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        pretrain: str | list[str] | None = None,
        pretrain_share: float | None = None,
        pretrain_tokens: int | None = None,
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
            pretrain: Files, globs or Hub names of pretraining text to mix in.
            pretrain_share: Its share of an epoch's tokens; by default 0.1 (C.3). Every epoch takes the next sequences.
            pretrain_tokens: Tokens of a pretraining sequence; by default max_prompt_tokens + max_response_tokens.
            batch_size: Rows of a batch, over all processes (C.1: 32). With packing a row holds several demonstrations.
            val_batch_size: Rows of a validation batch of each process; by default `batch_size`.
            max_prompt_tokens: Longest prompt (App. C: 1k).
            max_response_tokens: Responses are cut here (App. C: 1k). Of a conversation what follows its first answer
                counts too, whoever says it; later answers that fall behind the limit are counted and reported.
            packing: Put several demonstrations in one row of at most max_prompt_tokens + max_response_tokens;
                they do not see one another, and every token's loss stays what it was.
            on_bad_row: "skip" counts and lists broken rows instead of stopping at the first.
            on_long_prompt: "drop" leaves out rows with prompts over the limit, with a count.
            limit: Read at most this many rows of each file list.
            num_workers: Loader processes.
            seed: Seed of the order of rows and of pretraining text; by default the run's.
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
        check_number(SHARE_KEY, pretrain_share, above=0, below=1)
        check_number(LENGTH_KEY, pretrain_tokens, at_least=2)
        if pretrain is None and pretrain_share is not None:
            raise UserError(f"{SHARE_KEY} is {pretrain_share:g}, but there is no pretraining text: give {KEY}.")
        self.pretrain, self.pretrain_tokens = pretrain, pretrain_tokens or self.max_tokens
        self._mixed: MixedRows | None = None
        self._tokens: dict[str, int] = {}
        self.pretrain_share = PAPERS_SHARE if pretrain_share is None else pretrain_share

    def setup(self, stage: str) -> None:
        for split in self.unread():
            examples = self.read(split, Demonstration, SFTExample, self._tokenize)
            bins = pack(token_counts(examples), self.max_tokens) if self.packing else np.arange(len(examples))
            self.items[split] = PackedRows(examples, bins)
            self._tokens[split] = int(token_counts(examples).sum())
        if stage == "fit" and self.pretrain is not None and self._mixed is None:
            sequences = read_pretraining(self, self.pretrain, self.pretrain_tokens, LENGTH_KEY)
            per_epoch = sequences_for(self.pretrain_share, self._tokens["train"], self.pretrain_tokens)
            self._mixed = MixedRows(self.items["train"], PretrainingText(sequences, self.seed), per_epoch)
            self.items["train"] = self._mixed

    def training_row(self, epoch: int, number: int) -> int:
        return number if self._mixed is None else self._mixed.row(epoch, number)

    def _tokenize(self, row: Demonstration) -> SFTExample | None:
        with naming(row):
            ids, is_response = self.template.encode_conversation(row.messages)
        first = is_response.index(True)
        if not self.limits.prompt_fits(ids[:first], f"{row.file}:{row.line}"):
            return None
        end = first + len(self.limits.cut_response(ids[first:]))
        cut = is_response[end - 1 :]
        self.limits.lost_turns += sum(not before and now for before, now in pairwise(cut))
        self.check_row(ids[:end], row)
        return SFTExample(ids[:end], is_response[:end])

    def collate(self, items: list[list[SFTExample]]) -> SFTBatch:
        return collate(items, self.template.tokenizer.pad_token_id)
