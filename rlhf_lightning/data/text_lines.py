"""The text of a file, plain or gzipped, with every way it can be broken turned into a clear error."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rlhf_lightning.data.records import place
from rlhf_lightning.errors import UserError

_UTF8_MARK = b"\xef\xbb\xbf"
_LONGEST_LINE = 64 * 2**20
"""Bytes. A longer line is no row but a file without line ends, and would be taken into memory whole."""
_CHUNK = 2**20
"""Bytes read at a time where lines do not matter."""


@dataclass
class _Input:
    stream: gzip.GzipFile | io.BufferedReader
    line: int = 0
    """Lines that have been read whole."""


def numbered_lines(path: str, key: str) -> Iterator[tuple[int, str | UserError]]:
    """Line numbers (from 1) and lines with their line ends; a line that is not UTF-8 comes as an error.

    One line is held at a time, so the size of the file does not matter.

    Raises:
        UserError: The file cannot be read, has a line of more than 64 MiB, or its gzip stream is damaged.
    """
    with _opened(path, key) as source:
        while raw := source.stream.readline(_LONGEST_LINE + 1):
            source.line += 1
            if len(raw) > _LONGEST_LINE:
                raise UserError(
                    f"{place(key, path, source.line)}: is longer than {_LONGEST_LINE >> 20} MiB. "
                    "Write one row per line; a list of objects must be in a file whose name ends in .json."
                )
            yield source.line, _decode(raw, path, key, source.line)


def text_chunks(path: str, key: str) -> Iterator[str]:
    """The text of a file in pieces of about 1 MiB.

    Raises:
        UserError: The file cannot be read, is not UTF-8, or its gzip stream is damaged.
    """
    with _opened(path, key) as source:
        decoder = codecs.getincrementaldecoder("utf-8")()
        raw = source.stream.read(_CHUNK).removeprefix(_UTF8_MARK)
        before = 0  # bytes of the current line in earlier chunks
        while True:
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                number = source.line + 1 + error.object.count(b"\n", 0, error.start)
                raise _not_utf8(error, path, key, number, before - waiting) from error
            if text:
                yield text
            if not raw:
                return
            source.line += raw.count(b"\n")
            before = len(raw) - raw.rfind(b"\n") - 1 if b"\n" in raw else before + len(raw)
            raw = source.stream.read(_CHUNK)


def first_character(path: str, key: str) -> str:
    """The first character that is not white space, if it is ASCII; else nothing.

    Raises:
        UserError: The file cannot be read, or its gzip stream is damaged.
    """
    with _opened(path, key) as source:
        raw = source.stream.read(_CHUNK).removeprefix(_UTF8_MARK)
        while raw:
            if text := raw.lstrip():
                return text[:1].decode("ascii", errors="ignore")
            raw = source.stream.read(_CHUNK)
    return ""


@contextmanager
def _opened(path: str, key: str) -> Iterator[_Input]:
    source: _Input | None = None
    try:
        with _open(path) as stream:
            source = _Input(stream)
            yield source
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        number = source.line if source else 0
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
        return _not_utf8(error, path, key, number)


def _not_utf8(error: UnicodeDecodeError, path: str, key: str, number: int, before: int = 0) -> UserError:
    line_start = error.object.rfind(b"\n", 0, error.start) + 1
    position = error.start - line_start + 1 + (0 if line_start else before)
    return UserError(
        f"{place(key, path, number)}: not UTF-8 (byte 0x{error.object[error.start]:02x} at position {position}). "
        "Save the file as UTF-8."
    )
