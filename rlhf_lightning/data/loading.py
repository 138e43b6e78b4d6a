"""Sources to checked rows of one kind, all before training."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, PromptLike, Ranking, Row, Text
from rlhf_lightning.data.parsing import parse_demonstration, parse_prompt_row, parse_text_row
from rlhf_lightning.data.rankings import parse_ranking
from rlhf_lightning.data.reading import read_items
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError

T = TypeVar("T", bound=Row)

_PARSERS: dict[type[Row], Callable[[Record], Any]] = {
    Demonstration: parse_demonstration,
    Ranking: parse_ranking,
    Prompt: parse_prompt_row,
    Text: parse_text_row,
}
_NOT_CONTENT = {"file", "line"}
_COUNT_AHEAD = 10_000
"""Rows looked at after the first bad one, to say how many more there are; a few seconds at most."""


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What a source gave."""

    rows: list[T]
    skipped: list[str]
    """One message for each bad row that was left out."""
    fingerprint: str
    """SHA-256 over the content of `rows` in order; where they were read from does not matter."""


def load(
    kind: type[T],
    source: str | Sequence[str],
    key: str,
    on_bad_row: Literal["error", "skip"] = "error",
    limit: int | None = None,
) -> Loaded[T]:
    """Read and check every row of a source.

    Args:
        kind: `Demonstration`, `Ranking`, `Prompt` or `Text`.
        source: Paths, globs or Hub names; see `read_items`.
        key: Configuration key to blame, e.g. "data.init_args.train".
        on_bad_row: "error" stops at the first bad row; "skip" leaves bad rows out and warns once, with their
            number. A file that is damaged as a whole (missing, cut off) is an error in both.
        limit: Stop after this many good rows.

    Raises:
        UserError: A source or row is broken, or no rows are left.

    Example:
        >>> load(Prompt, "prompts.jsonl", "data.init_args.train").rows[0].prompt  # doctest: +SKIP
    """
    if limit is not None and limit < 1:
        raise UserError(f"{key.rpartition('.')[0]}.limit: is {limit}; give at least 1, or leave it out.".lstrip("."))
    skipped: list[str] = []
    rows: list[T] = []
    items = _parse(kind, source, key)
    for item in items:
        if not isinstance(item, UserError):
            rows.append(item)
        elif on_bad_row == "skip":
            skipped.append(str(item))
        else:
            raise UserError(f"{item}{_count_more(items)}") from item
        if len(rows) == limit:
            break
    if not rows:
        raise UserError(f"{key}: none of {len(skipped)} rows can be used. The first: {skipped[0]}")
    if skipped:
        total = len(rows) + len(skipped)
        warnings.warn(f"{key}: left out {len(skipped)} bad rows of {total}. The first: {skipped[0]}", stacklevel=2)
    return Loaded(rows, skipped, _fingerprint(rows))


def _parse(kind: type[T], source: str | Sequence[str], key: str) -> Iterator[T | UserError]:
    parse = _PARSERS[kind]
    for item in read_items(source, key):
        if isinstance(item, UserError):
            yield item
            continue
        try:
            row = parse(item)
        except UserError as error:
            row = error
        yield row


def _count_more(items: Iterator[Row | UserError]) -> str:
    bad, seen = 0, 0
    try:
        for item in islice(items, _COUNT_AHEAD):
            seen += 1
            bad += isinstance(item, UserError)
    except UserError:
        pass  # a damaged file further on: the first bad row is what the user should mend first
    if not bad:
        return ""
    at_least = "at least " if seen == _COUNT_AHEAD else ""
    return f" (and {at_least}{bad} more bad row{'s' if bad > 1 else ''})"


def _fingerprint(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        content = {name: value for name, value in vars(row).items() if name not in _NOT_CONTENT}
        line = json.dumps([type(row).__name__, content], sort_keys=True, default=_plain)
        digest.update(line.encode("ascii") + b"\n")
    return digest.hexdigest()


def _plain(value: object) -> object:
    # Whatever else a parquet column may hold (dates, bytes) has a text that says what it is.
    return vars(value) if isinstance(value, Message) else repr(value)


def shared_prompts(train: Iterable[Row], val: Iterable[Row]) -> int:
    """How many different prompts of `val` also occur in `train`.

    Surrounding white space does not make prompts different, nor does a string instead of one user message.
    Conversations are compared up to their first assistant turn, pretraining texts whole.
    """
    return len({_opening(row) for row in train} & {_opening(row) for row in val})


def _opening(row: Row) -> tuple[tuple[str, str], ...]:
    prompt: PromptLike = row.text if isinstance(row, Text) else ""
    if isinstance(row, Demonstration):
        first = next(i for i, m in enumerate(row.messages) if m.role == "assistant")
        prompt = row.messages[:first]
    elif isinstance(row, Ranking | Prompt):
        prompt = row.prompt
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return tuple((m.role, m.content.strip()) for m in messages)
