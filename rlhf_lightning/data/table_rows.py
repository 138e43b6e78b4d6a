"""Rows of tables: CSV, parquet, and data sets on the Hub."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rlhf_lightning.data.records import Record, place
from rlhf_lightning.data.text_lines import numbered_lines
from rlhf_lightning.errors import UserError

_LONGEST_CELL = 16 * 2**20
"""Characters. The csv module's own limit, 131072, is less than a long text; without any limit one stray quote
would take the rest of the file into memory."""
_PARQUET_BUFFER = 2**20
"""Bytes read at a time of each column, instead of all of it in a row group."""
_PARQUET_BATCH = 64
"""Rows made into Python objects at a time."""


def read_csv(path: str, key: str) -> Iterator[Record | UserError]:
    """Rows of a CSV file with a header; every cell is a string ("4" stays "4", "NA" stays "NA").

    Not through `datasets`: its reader guesses types, cannot name the line once a cell holds line breaks, and
    shifts columns silently when the first row has one cell too many.

    Raises:
        UserError: The file cannot be read, has a broken header, or has broken quotes.
    """
    reader = table_reader(path, key, strict=True)
    start = 1
    try:
        header: list[str] = next(reader, [])
        _check_header(header, path, key)
        start = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                yield Record(dict(zip(header, row, strict=True)), path, start, key)
            elif row:
                yield UserError(
                    f"{place(key, path, start)}: has {len(row)} cells, but the header has {len(header)}; "
                    "put cells that contain commas or line breaks in double quotes."
                )
            start = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise UserError(
                f"{place(key, path, start)}: broken CSV: a double quote opens in the row that begins here and is never "
                "closed. Close it, or double it if it belongs to the text."
            ) from error
        raise UserError(
            f"{place(key, path, reader.line_num)}: broken CSV ({error}). "
            "Put cells with commas, quotes or line breaks in double quotes, and double any quotes inside."
        ) from error


def table_reader(path: str, key: str, **dialect: Any) -> Any:
    """csv's reader of a file, with room for long cells.

    Raises:
        UserError: While it is read: the file cannot be, or is not UTF-8.
    """
    csv.field_size_limit(_LONGEST_CELL)
    return csv.reader(_text(path, key), **dialect)


def _text(path: str, key: str) -> Iterator[str]:
    for _, line in numbered_lines(path, key):
        if isinstance(line, UserError):
            raise line
        yield line


def _check_header(header: list[str], path: str, key: str) -> None:
    repeated = {name for name in header if header.count(name) > 1}
    if repeated or "" in header:
        problem = f"names {sorted(repeated)} more than once" if repeated else "has a column without a name"
        raise UserError(f"{place(key, path, 1)}: the header {problem}; give every column its own name.")


def read_parquet(path: str, key: str) -> Iterator[Record | UserError]:
    """Rows of a parquet file, a few at a time.

    Not through `datasets`: it holds several row groups at once, and a file may be a single one.

    Raises:
        UserError: pyarrow cannot read it.
    """

    def load() -> Iterable[dict[str, object]]:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path, buffer_size=_PARQUET_BUFFER) as file:
            for batch in file.iter_batches(_PARQUET_BATCH, use_threads=False):
                yield from batch.to_pylist()

    return _rows(load, path, key, "Is it really a parquet file, and complete?")


def read_hub(name: str, key: str) -> Iterator[Record | UserError]:
    """Rows of "org/name:split" on the Hub, streamed.

    Raises:
        UserError: `datasets` cannot load it.
    """
    repository, split = name.rsplit(":", 1)

    def load() -> Iterable[dict[str, object]]:
        import datasets  # here, because it takes more than a second and most runs read JSON lines

        # It logs what it is about to raise; the user gets one message, ours.
        logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
        return datasets.load_dataset(repository, split=split, streaming=True)  # type: ignore[no-any-return]

    fix = "There is no local file of that name either. Check the name, the split and the network."
    return _rows(load, name, key, fix)


def _rows(
    load: Callable[[], Iterable[dict[str, object]]], name: str, key: str, fix: str
) -> Iterator[Record | UserError]:
    number = 0
    try:
        for fields in load():
            number += 1
            yield Record(dict(fields), name, number, key, "row")
    # `datasets` lets through errors of pyarrow, fsspec, the Hub client and its own, without a common base.
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        at = f" after row {number}" if number else ""
        raise UserError(
            f"{place(key, name)}: cannot be read{at} ({type(error).__name__}: {first_line[:200]}). {fix}"
        ) from error
