"""Demonstrations with a share of pretraining text between them (C.3: 10 % for the model that PPO starts from)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from rlhf_lightning.pretraining_text import PretrainingText
from rlhf_lightning.sft.packing import SFTExample


def sequences_for(share: float, tokens: int, length: int) -> int:
    """How many pretraining sequences make up a share of all tokens, to the nearest; at least one.

    Args:
        share: Of the mixture's tokens, above 0 and below 1.
        tokens: Tokens of the demonstrations, prompts included.
        length: Tokens of a sequence.

    >>> sequences_for(0.1, 9000, 50)  # 1,000 tokens of 10,000
    20
    """
    return max(1, round(share / (1 - share) * tokens / length))


class MixedRows(Sequence[list[SFTExample]]):
    """Demonstrations, and after them pretraining sequences without end, of which each epoch takes the next ones."""

    def __init__(self, rows: Sequence[list[SFTExample]], text: PretrainingText, per_epoch: int) -> None:
        """
        Args:
            rows: N rows of demonstrations.
            text: Pretraining sequences.
            per_epoch: Of them, in each epoch.
        """
        self.rows, self.text, self.per_epoch = rows, text, per_epoch

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self.rows) + self.per_epoch

    def row(self, epoch: int, number: int) -> int:
        """The index of an epoch's row, from its number in that epoch."""
        return number if number < len(self.rows) else number + epoch * self.per_epoch

    @overload
    def __getitem__(self, index: int) -> list[SFTExample]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[SFTExample]]: ...
    def __getitem__(self, index: int | slice) -> list[SFTExample] | list[list[SFTExample]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < len(self.rows):
            return self.rows[index]
        ids = self.text.tokens(index - len(self.rows))
        return [SFTExample(ids, [True] * len(ids))]
