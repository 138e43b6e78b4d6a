"""Rows of JSON files: one object per line, or one list of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain

from rlhf_lightning.data.records import Record, place
from rlhf_lightning.data.text_lines import numbered_lines
from rlhf_lightning.errors import UserError

_WHITESPACE = re.compile(r"[ \t\r\n]*")
_EXCERPT = 20
"""Characters shown on either side of a JSON error."""


def read_json_lines(path: str, key: str) -> Iterator[Record | UserError]:
    """Rows of a JSON lines file without blank lines. A broken line comes as an error, and reading goes on.

    Raises:
        UserError: The file as a whole cannot be read.
    """
    return _parse_lines(numbered_lines(path, key), path, key)


def read_json(path: str, key: str) -> Iterator[Record | UserError]:
    """Rows of a `.json` file, which may be a list of objects (read whole) or JSON lines (streamed).

    Raises:
        UserError: The file cannot be read, or its list is broken: what follows cannot be told apart.
    """
    lines = numbered_lines(path, key)
    before: list[tuple[int, str | UserError]] = []
    for number, line in lines:
        before.append((number, line))
        if isinstance(line, UserError) or line.strip():
            break
    last = before[-1][1] if before else ""
    everything = chain(before, lines)
    if isinstance(last, str) and last.lstrip().startswith("["):
        return _parse_list(_whole(everything), path, key)
    return _parse_lines(everything, path, key)


def _parse_lines(lines: Iterator[tuple[int, str | UserError]], path: str, key: str) -> Iterator[Record | UserError]:
    for number, line in lines:
        if isinstance(line, UserError):
            yield line
        elif line.strip():
            try:
                value = json.loads(line.rstrip())
            except (ValueError, RecursionError) as error:
                yield _broken(error, line, place(key, path, number))
            else:
                yield _record(value, path, key, number)


def _parse_list(text: str, path: str, key: str) -> Iterator[Record | UserError]:
    # One element at a time instead of `json.loads`, because the parsed list would not know its line numbers.
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _skip(text, text.index("[") + 1)
    closed = text.startswith("]", position)
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = decoder.raw_decode(text, position)
            position = _skip(text, end)
            closed = text.startswith("]", position)
            if not closed:
                position = _after_comma(text, position)
        except (ValueError, RecursionError) as error:
            number = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise _broken(error, text, place(key, path, number)) from error
        yield _record(value, path, key, line)
    rest = _skip(text, position + 1)
    if rest < len(text):
        extra = json.JSONDecodeError("Extra data after the list", text, rest)
        raise _broken(extra, text, place(key, path, extra.lineno))


def _after_comma(text: str, position: int) -> int:
    if not text.startswith(",", position):
        raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
    return _skip(text, position + 1)


def _whole(lines: Iterator[tuple[int, str | UserError]]) -> str:
    parts = []
    for _, line in lines:
        if isinstance(line, UserError):
            raise line
        parts.append(line)
    return "".join(parts)


def _skip(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return position if match is None else match.end()


def _record(value: object, path: str, key: str, number: int) -> Record | UserError:
    if isinstance(value, dict):
        return Record(value, path, number, key)
    return UserError(
        f"{place(key, path, number)}: is not an object but {json_type(value)}; "
        'every row must be an object such as {"prompt": "..."}.'
    )


def _broken(error: Exception, text: str, where: str) -> UserError:
    fix = "Write one JSON object per line, or in a .json file one list of objects."
    if not isinstance(error, json.JSONDecodeError):  # nested too deeply, or a number of thousands of digits
        return UserError(f"{where}: JSON that cannot be read ({error}). {fix}")
    excerpt = text[max(0, error.pos - _EXCERPT) : error.pos + _EXCERPT]
    return UserError(f"{where}, column {error.colno}: broken JSON ({error.msg}) near {excerpt!r}. {fix}")


def json_type(value: object) -> str:
    """What JSON calls a value's type, with its article."""
    if isinstance(value, bool):
        return "true or false"
    names: list[tuple[type | tuple[type, ...], str]] = [
        (str, "a string"),
        ((int, float), "a number"),
        (list, "a list"),
        (dict, "an object"),
        (type(None), "null"),
    ]
    return next((name for kind, name in names if isinstance(value, kind)), f"a {type(value).__name__}")
