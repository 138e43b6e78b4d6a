"""Rows of JSON files: one object per line, or one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rlhf_lightning.data.json_list import EXCERPT, BrokenListError, list_elements
from rlhf_lightning.data.records import Record, place
from rlhf_lightning.data.text_lines import first_character, numbered_lines, text_chunks
from rlhf_lightning.errors import UserError


def read_json_lines(path: str, key: str) -> Iterator[Record | UserError]:
    """Rows of a JSON lines file without blank lines. A broken line comes as an error, and reading goes on.

    Raises:
        UserError: The file as a whole cannot be read.
    """
    return _parse_lines(numbered_lines(path, key), path, key)


def read_json(path: str, key: str) -> Iterator[Record | UserError]:
    """Rows of a `.json` file, which may be a list of objects or JSON lines; streamed in both cases.

    Raises:
        UserError: The file cannot be read, or its list is broken: what follows cannot be told apart.
    """
    if first_character(path, key) == "[":
        return _parse_list(path, key)
    return read_json_lines(path, key)


def _parse_lines(lines: Iterator[tuple[int, str | UserError]], path: str, key: str) -> Iterator[Record | UserError]:
    for number, line in lines:
        if isinstance(line, UserError):
            yield line
        elif line.strip():
            try:
                value = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                excerpt = line[max(0, error.pos - EXCERPT) : error.pos + EXCERPT]
                yield _broken(error, place(key, path, number), error.colno, excerpt)
            except (ValueError, RecursionError) as error:
                yield _broken(error, place(key, path, number))
            else:
                yield _record(value, path, key, number)


def _parse_list(path: str, key: str) -> Iterator[Record | UserError]:
    try:
        for line, value in list_elements(text_chunks(path, key)):
            yield _record(value, path, key, line)
    except BrokenListError as error:
        raise _broken(error.cause, place(key, path, error.line), error.column, error.excerpt) from error


def _record(value: object, path: str, key: str, number: int) -> Record | UserError:
    if isinstance(value, dict):
        return Record(value, path, number, key)
    return UserError(
        f"{place(key, path, number)}: is not an object but {json_type(value)}; "
        'every row must be an object such as {"prompt": "..."}.'
    )


def _broken(error: Exception, where: str, column: int = 0, excerpt: str = "") -> UserError:
    fix = "Write one JSON object per line, or in a .json file one list of objects."
    if not isinstance(error, json.JSONDecodeError):  # nested too deeply, or a number of thousands of digits
        return UserError(f"{where}: JSON that cannot be read ({error}). {fix}")
    return UserError(f"{where}, column {column}: broken JSON ({error.msg}) near {excerpt!r}. {fix}")


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
