"""Texts to tokens whose log-probability is asked for, and many of those to one row of tokens for a forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.models.ragged import Ragged, from_lengths, from_prompts


@dataclass(frozen=True)
class TokenPair:
    """A context and the tokens after it whose log-probability is wanted; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    cut: bool = False
    """The context's beginning did not fit into the model."""

    def fitted(self, limit: int | None) -> TokenPair:
        """The same with the end of its context that fits: the last token of a continuation is predicted, not read.

        A continuation that is itself too long loses its end.
        """
        if limit is None or len(self.context) + len(self.continuation) - 1 <= limit:
            return self
        continuation = self.continuation[:limit]
        return TokenPair(self.context[-(limit - len(continuation) + 1) :], continuation, cut=True)


def split_tokens(context: Sequence[int], whole: Sequence[int]) -> TokenPair:
    """Where a continuation's tokens begin, when context and continuation were tokenized as one text.

    A token across the border belongs to the continuation; so does the last token if there is no other.

    >>> split_tokens([5, 6], [5, 6, 7, 8])
    TokenPair(context=(5, 6), continuation=(7, 8), cut=False)
    >>> split_tokens([5, 6], [5, 9, 8])  # 6 and the next letter became one token
    TokenPair(context=(5,), continuation=(9, 8), cut=False)
    """
    same = 0
    while same < min(len(context), len(whole) - 1) and context[same] == whole[same]:
        same += 1
    return TokenPair(tuple(whole[:same]), tuple(whole[same:]))


def windows(ids: Sequence[int], start: int, length: int) -> Iterator[TokenPair]:
    """A document in windows of at most `length` tokens, so that every token is predicted exactly once.

    The first is predicted from `start`, the first of each later window from the token before it.

    >>> [(w.context, w.continuation) for w in windows([5, 6, 7], 1, 2)]
    [((1,), (5, 6)), ((6,), (7,))]
    """
    for begin in range(0, len(ids), length):
        before = ids[begin - 1] if begin else start
        yield TokenPair((before,), tuple(ids[begin : begin + length]))


@dataclass(frozen=True)
class ScoringBatch:
    """Some pairs as one row of tokens; M tokens are wanted."""

    numbers: list[int]
    """Which pairs these are."""
    tokens: Ragged
    before: Tensor
    """[M], number of the token before each wanted token."""
    targets: Tensor
    """[M], the wanted tokens."""
    rows: Tensor
    """[M], to which of `numbers` they belong."""


def scoring_batches(pairs: Sequence[TokenPair], max_tokens: int, device: torch.device) -> Iterator[ScoringBatch]:
    """Pairs in batches of at most `max_tokens` tokens, or of one context if that alone is more.

    Pairs with the same context (the choices of a question) stand together, and it is computed once.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(pair.context, []).append(number)
    batch: list[list[int]] = []
    size = 0
    for context in sorted(groups, key=lambda c: (len(c), c)):
        tokens = len(context) + sum(len(pairs[n].continuation) for n in groups[context])
        if batch and size + tokens > max_tokens:
            yield _together(pairs, batch, device)
            batch, size = [], 0
        batch.append(groups[context])
        size += tokens
    if batch:
        yield _together(pairs, batch, device)


def _together(pairs: Sequence[TokenPair], groups: list[list[int]], device: torch.device) -> ScoringBatch:
    numbers = [n for group in groups for n in group]
    if len(groups) == len(numbers):
        return _in_a_row(pairs, numbers, device)
    contexts = [pairs[group[0]].context for group in groups]
    answers = [pairs[n].continuation for n in numbers]
    prompt = torch.tensor([g for g, group in enumerate(groups) for _ in group])
    (prompt_ids, prompt_mask), (ids, mask) = _padded(contexts), _padded(answers)
    placed = prompt_ids.to(device), prompt_mask.to(device), ids.to(device), mask.to(device), prompt.to(device)
    tokens = from_prompts(*placed)
    # The contexts' tokens come first, then the continuations'; a continuation's first token follows its context.
    ends = prompt_mask.sum(1).cumsum(0) - 1
    own = int(prompt_mask.sum()) + (mask.flatten().cumsum(0) - 1).view(mask.shape)
    before = torch.cat([ends[prompt].unsqueeze(1), own[:, :-1]], 1)[mask]
    rows = mask.nonzero()[:, 0]
    return ScoringBatch(numbers, tokens, before.to(device), ids[mask].to(device), rows.to(device))


def _in_a_row(pairs: Sequence[TokenPair], numbers: list[int], device: torch.device) -> ScoringBatch:
    """Every context has one continuation, whose last token nothing depends on."""
    ids: list[int] = []
    before: list[int] = []
    rows: list[int] = []
    lengths = []
    for row, number in enumerate(numbers):
        pair = pairs[number]
        before += range(len(ids) + len(pair.context) - 1, len(ids) + len(pair.context) + len(pair.continuation) - 1)
        rows += [row] * len(pair.continuation)
        ids += pair.context + pair.continuation[:-1]
        lengths.append(len(pair.context) + len(pair.continuation) - 1)
    targets = [t for n in numbers for t in pairs[n].continuation]
    made: list[Any] = [torch.tensor(x, device=device) for x in (ids, lengths, before, targets, rows)]
    return ScoringBatch(numbers, from_lengths(made[0], made[1]), *made[2:])


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask of rows, padded right."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, torch.arange(width) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
