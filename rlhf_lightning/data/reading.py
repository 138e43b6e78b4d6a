"""Any source to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rlhf_lightning.data.json_rows import read_json, read_json_lines
from rlhf_lightning.data.records import Record, place
from rlhf_lightning.data.sources import Format, resolve
from rlhf_lightning.data.table_rows import read_csv, read_hub, read_parquet
from rlhf_lightning.errors import UserError

_READERS: dict[Format, Callable[[str, str], Iterator[Record | UserError]]] = {
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
    "hub": read_hub,
}


def read_items(source: str | Sequence[str], key: str) -> Iterator[Record | UserError]:
    """Rows of one or several files, globs and Hub names, in order and one at a time.

    All names are checked before the first row is read, so a typing error in the last one costs no time. A
    line that is not a row at all (broken JSON, not UTF-8, too many cells) comes as its error, and reading
    goes on after it; but not where a CSV file is not UTF-8, whose rows may go over several lines.

    Args:
        source: Paths or globs (.jsonl, .json, both also .gz; .csv, .parquet), "org/name" or "org/name:split".
        key: Configuration key to blame, e.g. "data.init_args.train".

    Raises:
        UserError: A source is missing, unreadable, damaged or without rows.
    """
    for found in resolve(source, key):
        empty = True
        for item in _READERS[found.format](found.name, key):
            empty = False
            yield item
        if empty:
            raise UserError(f"{place(key, found.name)}: is empty (no rows). Fill it or take it out of {key}.")


def read_records(source: str | Sequence[str], key: str) -> Iterator[Record]:
    """Rows as `read_items` gives them, for callers that stop at the first bad line.

    Raises:
        UserError: As for `read_items`, or a line is bad.

    Example:
        >>> for record in read_records("*.jsonl.gz", "data.init_args.train"):  # doctest: +SKIP
        ...     print(record.line, record.fields["prompt"])
    """
    for item in read_items(source, key):
        if isinstance(item, UserError):
            raise item
        yield item
