"""Lines of a text file, plain or gzipped, with every way it can be broken turned into a clear error."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator

from rlhf_lightning.data.records import place
from rlhf_lightning.errors import UserError

_UTF8_MARK = b"\xef\xbb\xbf"


def numbered_lines(path: str, key: str) -> Iterator[tuple[int, str | UserError]]:
    """Line numbers (from 1) and lines with their line ends; a line that is not UTF-8 comes as an error.

    One line is held at a time, so the size of the file does not matter.

    Raises:
        UserError: The file cannot be read, or its gzip stream is cut off or damaged.
    """
    number = 0
    try:
        with _open(path) as stream:
            for raw in stream:
                number += 1
                yield number, _decode(raw, path, key, number)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{place(key, path)}: the gzip stream is cut off or damaged after line {number} ({error}). "
            "Copy or compress the file again."
        ) from error
    except OSError as error:
        raise UserError(f"{place(key, path)}: cannot be read ({error.strerror or error}).") from error


def _open(path: str) -> gzip.GzipFile | io.BufferedReader:
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rb")
    return open(path, "rb")


def _decode(raw: bytes, path: str, key: str, number: int) -> str | UserError:
    if number == 1:
        raw = raw.removeprefix(_UTF8_MARK)  # Windows editors write it, and JSON does not allow it
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return UserError(
            f"{place(key, path, number)}: not UTF-8 (byte 0x{raw[error.start]:02x} at position "
            f"{error.start + 1}). Save the file as UTF-8."
        )
