"""Pretraining text as sequences of one length, in an order that depends on (seed, position) alone.

As GPT-3 was trained: documents stand one after another with EOS after each, a sequence ends where it is full, and a
document sees what stands before it in its sequence. There is no BOS; every token but a sequence's first is a target.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_lightning.data.item_store import ItemStore, pack_integers, unpack_integers
from rlhf_lightning.data.kinds import Text
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.limits import ModelLimits
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.seeding import generator

if TYPE_CHECKING:
    from rlhf_lightning.datamodule import StageDataModule

KEY = "data.init_args.pretrain"


@dataclass(frozen=True)
class TokenSequence:
    """Tokens of one sequence."""

    ids: list[int]

    def packed(self) -> bytes:
        return pack_integers(self.ids)

    @classmethod
    def unpacked(cls, data: bytes) -> TokenSequence:
        return cls(unpack_integers(data))


def cut(documents: Iterable[Sequence[int]], length: int) -> Iterator[TokenSequence]:
    """Documents, one after another, in sequences of exactly `length` tokens; what is left at the end is dropped.

    >>> [s.ids for s in cut([[5, 6, 2], [7, 2], [8, 9, 2]], 3)]
    [[5, 6, 2], [7, 2, 8]]
    """
    held: list[int] = []
    for ids in documents:
        held.extend(ids)
        whole = len(held) // length * length
        for start in range(0, whole, length):
            yield TokenSequence(held[start : start + length])
        del held[:whole]


class PretrainingText:
    """Sequences without end: pass after pass over all of them, each pass in its own order.

    The sequence at a position is a function of (seed, position), so a resumed run needs no state of it.
    """

    def __init__(self, sequences: Sequence[TokenSequence], seed: int) -> None:
        """
        Args:
            sequences: At least one, all of one length.
            seed: Seed of the order.
        """
        self.sequences, self.seed = sequences, seed
        self.length = len(sequences[0].ids)
        """Tokens of a sequence."""
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        return len(self.sequences)

    def number(self, position: int) -> int:
        """Which sequence is at a position of the endless order."""
        pass_number, place = divmod(position, len(self))
        if self._order[0] != pass_number:  # kept: a shuffle of millions takes longer than a step
            self._order = (
                pass_number,
                torch.randperm(len(self), generator=generator(self.seed, "pretraining", pass_number)),
            )
        return int(self._order[1][place])

    def tokens(self, position: int) -> list[int]:
        """The sequence at a position."""
        return self.sequences[self.number(position)].ids

    def ids(self, positions: Iterable[int]) -> Tensor:
        """The sequences at some positions, [n, T]."""
        rows = [self.tokens(p) for p in positions]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), self.length)


def read_pretraining(
    data: StageDataModule, files: str | Sequence[str], length: int, length_key: str
) -> ItemStore[TokenSequence]:
    """Read, check, tokenize and cut pretraining text row by row, before training; tokens are kept on disk.

    Args:
        data: The data module, attached to a trainer; it notes where the text came from.
        files: Files, globs or Hub names of `{"text": ...}` rows.
        length: Tokens of a sequence.
        length_key: Configuration key of `length`, to name in an error.

    Raises:
        UserError: A broken or empty row, sequences longer than the model's context, or not enough text for one.
    """
    assert data.trainer is not None
    module: Any = data.trainer.lightning_module
    limits: ModelLimits = replace(module.limits, sampled=0)  # nothing is sampled after pretraining text
    if limits.context is not None and length > limits.context:
        raise UserError(f"{length_key} is {length}, but the model's context length is {limits.context}. Lower it.")
    stream = RowStream(Text, files, KEY, data.on_bad_row, data.limit)
    tokens = 0

    def documents() -> Iterator[list[int]]:
        nonlocal tokens
        for row in stream:
            ids = encode_document(data.template, row)
            limits.check_vocabulary(ids, f"{row.file}:{row.line}")
            tokens += len(ids)
            data.card.split("pretrain", Text).add(row, len(ids))
            yield ids

    sequences = ItemStore(TokenSequence, cut(documents(), length))
    if not len(sequences):
        raise UserError(
            f"{KEY}: the text has {tokens} tokens (EOS after each of {stream.rows} rows included), less than one "
            f"sequence of {length_key} = {length}. Give more text, or lower it."
        )
    data.record("pretrain", files, stream, len(sequences))
    return sequences


def encode_document(template: PromptTemplate, row: Text) -> list[int]:
    """Tokens of a text, EOS included.

    Raises:
        UserError: The tokenizer makes nothing of it.
    """
    ids = template.encode_document(row.text)
    if len(ids) == 1:
        raise UserError(
            f"{KEY}: {row.file}:{row.line}: the tokenizer makes no tokens of the text; delete the row or repair it."
        )
    return ids
