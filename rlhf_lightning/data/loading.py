"""Sources to checked rows of one kind, all before training."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, Ranking, Row, Text
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


_KEPT_MESSAGES = 100
"""Messages about skipped rows that are kept; all are counted."""


class RowStream(Generic[T]):
    """Checked rows of a source, one at a time; the totals are whole once the rows have been gone through.

    Example:
        >>> for row in RowStream(Prompt, "prompts.jsonl", "data.init_args.train"):  # doctest: +SKIP
        ...     print(row.prompt)
    """

    def __init__(
        self,
        kind: type[T],
        source: str | Sequence[str],
        key: str,
        on_bad_row: Literal["error", "skip"] = "error",
        limit: int | None = None,
    ) -> None:
        """
        Args:
            kind: `Demonstration`, `Ranking`, `Prompt` or `Text`.
            source: Paths, globs or Hub names; see `read_items`.
            key: Configuration key to blame, e.g. "data.init_args.train".
            on_bad_row: "error" stops at the first bad row; "skip" leaves bad rows out and warns once, with their
                number. A file that is damaged as a whole (missing, cut off) is an error in both.
            limit: Stop after this many good rows.

        Raises:
            UserError: The limit is below 1.
        """
        if limit is not None and limit < 1:
            parent = key.rpartition(".")[0]
            raise UserError(f"{parent}.limit: is {limit}; give at least 1, or leave it out.".lstrip("."))
        self._kind, self._source, self._key = kind, source, key
        self._on_bad_row, self._limit = on_bad_row, limit
        self._digest = hashlib.sha256()
        self.rows = 0
        """Good rows so far."""
        self.skipped = 0
        """Bad rows left out so far."""
        self.messages: list[str] = []
        """What is wrong with the first 100 of them."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of the rows so far, in order; where they were read from does not matter."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[T]:
        """
        Raises:
            UserError: A source or row is broken, or no rows are left.
        """
        items = _parse(self._kind, self._source, self._key)
        for item in items:
            if not isinstance(item, UserError):
                self.rows += 1
                self._digest.update(_content(item))
                yield item
            elif self._on_bad_row == "skip":
                self._skip(str(item))
            else:
                raise UserError(f"{item}{_count_more(items)}") from item
            if self.rows == self._limit:
                break
        self._finish()

    def _skip(self, message: str) -> None:
        self.skipped += 1
        if len(self.messages) < _KEPT_MESSAGES:
            self.messages.append(message)

    def _finish(self) -> None:
        if not self.rows:
            raise UserError(f"{self._key}: none of {self.skipped} rows can be used. The first: {self.messages[0]}")
        if self.skipped:
            total = self.rows + self.skipped
            first = f"left out {self.skipped} bad rows of {total}. The first: {self.messages[0]}"
            warnings.warn(f"{self._key}: {first}", stacklevel=3)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What a source gave."""

    rows: list[T]
    skipped: list[str]
    """Messages about the bad rows that were left out, the first 100."""
    fingerprint: str
    """As `RowStream.fingerprint`."""


def load(
    kind: type[T],
    source: str | Sequence[str],
    key: str,
    on_bad_row: Literal["error", "skip"] = "error",
    limit: int | None = None,
) -> Loaded[T]:
    """All rows of a source at once, for data that fits into memory; arguments and errors as for `RowStream`.

    Example:
        >>> load(Prompt, "prompts.jsonl", "data.init_args.train").rows[0].prompt  # doctest: +SKIP
    """
    stream = RowStream(kind, source, key, on_bad_row, limit)
    rows = list(stream)
    return Loaded(rows, stream.messages, stream.fingerprint)


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


def _content(row: Row) -> bytes:
    content = {name: value for name, value in vars(row).items() if name not in _NOT_CONTENT}
    line = json.dumps([type(row).__name__, content], sort_keys=True, default=_plain)
    return line.encode("ascii") + b"\n"


def _plain(value: object) -> object:
    # Whatever else a parquet column may hold (dates, bytes) has a text that says what it is.
    return vars(value) if isinstance(value, Message) else repr(value)
