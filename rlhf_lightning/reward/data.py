"""Rankings to batches: a prompt with all its responses is one element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf_lightning.data.item_store import Numbered, pack_integers, unpack_integers
from rlhf_lightning.data.kinds import Demonstration, Ranking
from rlhf_lightning.data.length_limits import OnLong
from rlhf_lightning.data.row_labels import RowLabels
from rlhf_lightning.datamodule import LoadingSettings, OnBad, StageDataModule, naming, pad
from rlhf_lightning.memory import split_by_tokens
from rlhf_lightning.models.ragged import Ragged, from_prompts


@dataclass(frozen=True)
class RankedPrompt:
    """One prompt, K responses; a demonstration is the case K = 1."""

    prompt_ids: list[int]
    responses: list[list[int]]
    ranks: list[int]

    def packed(self) -> bytes:
        """K, the K ranks, the K lengths, the responses, the prompt."""
        lengths = [len(r) for r in self.responses]
        return pack_integers([len(self.ranks)], self.ranks, lengths, *self.responses, self.prompt_ids)

    @classmethod
    def unpacked(cls, data: bytes) -> RankedPrompt:
        values = iter(unpack_integers(data))
        k = next(values)
        ranks, lengths = list(islice(values, k)), list(islice(values, k))
        responses = [list(islice(values, n)) for n in lengths]
        return cls(list(values), responses, ranks)

    def lengths(self) -> tuple[int, list[int]]:
        """Tokens of the prompt, and of each response."""
        return len(self.prompt_ids), [len(r) for r in self.responses]


@dataclass  # not frozen: Lightning rebuilds batches field by field under 16-bit precision
class RankingBatch:
    """B prompts and their N = sum of K responses; no prompt is repeated."""

    prompt_ids: Tensor
    """[B, P], padded left."""
    prompt_mask: Tensor
    """Bool [B, P]."""
    response_ids: Tensor
    """[N, R], padded right."""
    response_mask: Tensor
    """Bool [N, R]."""
    ranks: Tensor
    """[N], 1 = best within its prompt."""
    prompt: Tensor
    """[N] row of the prompt that a response answers."""
    step_weight: float | None = None
    """Prompts of the whole optimizer step; None where the batch stands alone."""
    rows: list[int] | None = None
    """[B] numbers of the rankings in their split; None in training."""

    @property
    def weight(self) -> float:
        """Prompts of this batch."""
        return float(len(self.prompt_ids))

    def to(self, device: torch.device) -> RankingBatch:
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self)[:-2]}
        return RankingBatch(**tensors, step_weight=self.step_weight, rows=self.rows)

    def row(self, index: int) -> RankingBatch:
        """One prompt with its responses."""
        return self._rows(torch.tensor([index], device=self.prompt.device), None)

    def _rows(self, rows: Tensor, step_weight: float | None) -> RankingBatch:
        """Some prompts, in ascending order, with their responses."""
        own = torch.isin(self.prompt, rows)
        return RankingBatch(
            self.prompt_ids[rows],
            self.prompt_mask[rows],
            self.response_ids[own],
            self.response_mask[own],
            self.ranks[own],
            torch.searchsorted(rows, self.prompt[own]),
            step_weight,
        )

    def parts(self, max_tokens: int) -> Iterator[RankingBatch]:
        """The batch in pieces of at most `max_tokens`, and at least one prompt; their losses are shares of its own."""
        own = self.response_mask.sum(1)
        tokens = self.prompt_mask.sum(1).index_add(0, self.prompt, own)
        for rows in split_by_tokens(tokens, max_tokens):
            yield self._rows(rows, self.step_weight or self.weight)

    def ragged(self) -> tuple[Ragged, Tensor]:
        """Every prompt once and every response once, and the number of each response's last token [N]."""
        tokens = from_prompts(self.prompt_ids, self.prompt_mask, self.response_ids, self.response_mask, self.prompt)
        return tokens, self.prompt_mask.sum() + self.response_mask.sum(1).cumsum(0) - 1


def collate(rows: Sequence[RankedPrompt], pad_id: int, numbers: list[int] | None = None) -> RankingBatch:
    """Ranked prompts to a batch; K may vary. `numbers` are those of the rows in their split."""
    responses = [r for row in rows for r in row.responses]
    return RankingBatch(
        pad([row.prompt_ids for row in rows], pad_id, left=True),
        pad([[True] * len(row.prompt_ids) for row in rows], False, left=True),
        pad(responses, pad_id),
        pad([[True] * len(r) for r in responses], False),
        torch.tensor([rank for row in rows for rank in row.ranks]),
        torch.tensor([i for i, row in enumerate(rows) for _ in row.responses]),
        rows=numbers,
    )


class RankingDataModule(StageDataModule):
    """Rankings (or pairs) for the reward model, and the demonstrations its scores are centred on."""

    stage: ClassVar[str] = "reward"

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        demonstrations: str | list[str] | None = None,
        batch_size: int = 64,
        val_batch_size: int | None = None,
        max_prompt_tokens: int = 1000,
        max_response_tokens: int = 1000,
        on_bad_row: OnBad = "error",
        on_long_prompt: OnLong = "error",
        limit: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            train: Files, globs or Hub names of rankings.
            val: The same for validation; without it there is none.
            demonstrations: After training a bias makes these score 0 on average (§3.5); without them the best
                response of each training ranking stands in.
            batch_size: Prompts (not pairs) of a batch, over all processes (C.2: 64).
            val_batch_size: Prompts of a validation batch of each process; by default `batch_size`.
            max_prompt_tokens: Longest prompt (App. C: 1k).
            max_response_tokens: Responses are cut here (App. C: 1k).
            on_bad_row: "skip" counts and lists broken rows instead of stopping at the first.
            on_long_prompt: "drop" leaves out rows with prompts over the limit, with a count.
            limit: Read at most this many rows of each file list.
            num_workers: Loader processes.
            seed: Seed of the row order; by default the run's.
        """
        sources = {"train": train, "val": val, "demonstrations": demonstrations}
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
        self.labels = RowLabels()
        """Of the validation rankings, in their order."""

    def setup(self, stage: str) -> None:
        for split in self.unread():
            if split == "demonstrations":
                self.items[split] = self.read(split, Demonstration, RankedPrompt, self._tokenize_demonstration)
            else:
                tokenize = self._tokenize_labelled if split == "val" else self._tokenize
                self.items[split] = self.read(split, Ranking, RankedPrompt, tokenize)

    def _tokenize_labelled(self, row: Ranking) -> RankedPrompt | None:
        item = self._tokenize(row)
        if item is not None:
            self.labels.add(row)
        return item

    def _tokenize(self, row: Ranking) -> RankedPrompt | None:
        with naming(row):
            prompt_ids = self.template.encode_prompt(row.prompt)
        if not self.limits.prompt_fits(prompt_ids, f"{row.file}:{row.line}"):
            return None
        responses = [self._response(row, i) for i in range(len(row.responses))]
        for response in responses:
            self.check_row(prompt_ids + response, row)
        return RankedPrompt(prompt_ids, responses, list(row.ranks))

    def _response(self, row: Ranking, index: int) -> list[int]:
        ids = self.limits.cut_response(self.template.encode_response(row.responses[index]))
        # A sample that hit its length limit had no EOS, and the reward model must be able to see that. A text without
        # tokens keeps it: a score is read at a response's last token.
        ended: Any = row.meta.get("ended")
        unfinished = isinstance(ended, list) and len(ended) == len(row.responses) and ended[index] is False
        return ids[:-1] if unfinished and len(ids) > 1 and ids[-1] == self.template.eos_id else ids

    def _tokenize_demonstration(self, row: Demonstration) -> RankedPrompt | None:
        with naming(row):
            prompt_ids = self.template.encode_prompt(row.messages[:-1])
        if not self.limits.prompt_fits(prompt_ids, f"{row.file}:{row.line}"):
            return None
        response = self.limits.cut_response(self.template.encode_response(row.messages[-1].content))
        self.check_row(prompt_ids + response, row)
        return RankedPrompt(prompt_ids, [response], [1])

    def centering_batches(self) -> Iterator[RankingBatch]:
        """Batches of the (prompt, response) pairs whose mean score becomes 0."""
        rows = self.items.get("demonstrations", self.items["train"])
        size = 4 * self.val_batch_size
        for start in range(0, len(rows), size):
            yield self.collate([_best(rows[i]) for i in range(start, min(start + size, len(rows)))])

    def collate(self, items: Sequence[RankedPrompt], numbers: list[int] | None = None) -> RankingBatch:
        return collate(items, self.template.tokenizer.pad_token_id, numbers)

    def eval_items(self, split: str) -> Any:
        return Numbered(self.items[split])

    def collate_eval(self, items: list[tuple[int, RankedPrompt]]) -> RankingBatch:
        numbers, rows = zip(*items, strict=True)
        return self.collate(rows, list(numbers))


def _best(row: RankedPrompt) -> RankedPrompt:
    """A prompt with the first of its best responses alone."""
    return RankedPrompt(row.prompt_ids, [row.responses[row.ranks.index(min(row.ranks))]], [1])
