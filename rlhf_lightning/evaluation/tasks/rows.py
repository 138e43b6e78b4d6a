"""Files to checked rows of a task: JSON lines and tables as everywhere, and the nested files of some data sets."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

from rlhf_lightning.data.fields import parse_text
from rlhf_lightning.data.json_rows import json_type
from rlhf_lightning.data.reading import read_items
from rlhf_lightning.data.records import Record, place
from rlhf_lightning.data.sources import resolve
from rlhf_lightning.data.table_rows import table_reader
from rlhf_lightning.data.text_lines import first_character, text_chunks
from rlhf_lightning.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """What every task's rows may say about themselves."""

    where: str = ""
    """File and line, for messages."""
    id: str = ""
    category: str = ""


R = TypeVar("R", bound=TaskRow)


@dataclass(frozen=True)
class NestedRecord(Record):
    """A row inside a file that is one object."""

    path: str = ""
    """Where in the object, e.g. `data[0].paragraphs[2].qas[1]`."""

    def error(self, problem: str) -> UserError:
        """An error that names the path too."""
        return UserError(f"{place(self.key, self.file)}, {self.path}: {problem}")


def read_rows(
    files: str | Sequence[str], key: str, parse: Callable[[Record], Iterable[R]], limit: int | None = None
) -> list[R]:
    """All rows of a task.

    Args:
        files: Files, globs or Hub names as `data.reading.read_items` takes them, and `.tsv`.
        key: Configuration key to blame.
        parse: One record to its rows; a file that is one object is one record.
        limit: Stop after this many rows.

    Raises:
        UserError: A file or row is broken; the first one is named.
    """
    return list(islice((row for record in _records(files, key) for row in parse(record)), limit))


def digest(rows: Iterable[TaskRow]) -> str:
    """SHA-256 of the content of rows, in order; where they were read from does not matter."""
    found = hashlib.sha256()
    for row in rows:
        content = {name: value for name, value in asdict(row).items() if name != "where"}
        found.update(json.dumps(content, sort_keys=True).encode() + b"\n")
    return found.hexdigest()


def _records(files: str | Sequence[str], key: str) -> Iterator[Record]:
    for entry in [files] if isinstance(files, str) else files:
        if isinstance(entry, str) and entry.lower().endswith(".tsv"):
            yield from _read_tsv(entry, key)
            continue
        for source in resolve(entry, key):
            if source.format == "json" and first_character(source.name, key) == "{":
                whole = _whole_object(source.name, key)
                if whole is not None:
                    yield Record(whole, source.name, 1, key)
                    continue
            name = source.name
            for item in read_items(name, key):
                if isinstance(item, UserError):
                    raise item
                yield item


def _whole_object(path: str, key: str) -> dict[str, object] | None:
    """The object that a file consists of; None if there are several, one a line."""
    try:
        value: dict[str, object] = json.loads("".join(text_chunks(path, key)))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        raise UserError(f"{place(key, path, error.lineno)}: broken JSON ({error.msg}). Copy the file again.") from error
    return value


def _read_tsv(path: str, key: str) -> Iterator[Record]:
    """Rows of a table with tabs between cells and no quotes."""
    reader = table_reader(path, key, delimiter="\t", quoting=csv.QUOTE_NONE)
    header: list[str] = next(reader, [])
    for cells in _cells(reader, path, key):
        if len(cells) != len(header):
            raise UserError(
                f"{place(key, path, reader.line_num)}: has {len(cells)} cells, but the header has {len(header)}. "
                "Put one tab between two cells."
            )
        yield Record(dict(zip(header, cells, strict=True)), path, reader.line_num, key)


def _cells(reader: Any, path: str, key: str) -> Iterator[list[str]]:
    """Rows that are not empty."""
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise UserError(f"{place(key, path, reader.line_num)}: broken table ({error}).") from error


def about(record: Record, category: str = "category") -> dict[str, str]:
    """`where`, `id` and `category` of a row, as keyword arguments.

    Args:
        record: The row.
        category: The field that holds its category.
    """
    place_of = record.error("").args[0].removesuffix(": ")
    named = {}
    for name, field in (("id", "id"), ("category", category)):
        value = record.fields.get(field)
        named[name] = "" if value is None else str(value)
    return {"where": place_of, **named}


def first_of(record: Record, names: Sequence[str]) -> str:
    """The first of some field names that the row has.

    Raises:
        UserError: It has none of them.
    """
    for name in names:
        if record.has(name):
            return name
    there = ", ".join(f"`{n}`" for n in list(record.fields)[:12]) or "no fields"
    wanted = " or ".join(f"`{n}`" for n in names)
    raise record.error(f"{wanted} is missing; the row has {there}.")


def text_of(record: Record, *names: str) -> str:
    """The text in the first of some fields that the row has.

    Raises:
        UserError: There is none, or it is no text or empty.
    """
    name = first_of(record, names)
    return parse_text(record, name, record.fields[name])


def texts_of(record: Record, name: str, value: object = None, at_least: int = 1) -> tuple[str, ...]:
    """A list of texts.

    Args:
        record: The row.
        name: Field to blame.
        value: What it holds; by default the field's value.
        at_least: How many there must be.

    Raises:
        UserError: It is no list, too short, or holds something else.
    """
    values = record.require(name) if value is None else value
    if not isinstance(values, list):
        raise record.error(f"`{name}` is {json_type(values)}; it must be a list of strings.")
    if len(values) < at_least:
        raise record.error(f"`{name}` has {len(values)} entries; it needs at least {at_least}.")
    return tuple(parse_text(record, f"{name}[{i}]", v) for i, v in enumerate(values))


def index_of(record: Record, name: str, count: int, first: int = 0) -> int:
    """A choice, counted from 0, from a field that counts from `first`, as a number or in digits.

    Raises:
        UserError: It is no whole number, or there is no such choice.
    """
    value = record.require(name)
    digits = isinstance(value, str) and value.strip().lstrip("-").isdigit()
    if isinstance(value, bool) or not (isinstance(value, int) or digits):
        raise record.error(f"`{name}` is {value!r:.40}; it must be the number of a choice.")
    number = int(value) - first  # type: ignore[call-overload]
    if not 0 <= number < count:
        raise record.error(f"`{name}` is {value}, but the choices are {first} to {first + count - 1}.")
    return int(number)


def object_of(record: Record, name: str) -> Mapping[str, object]:
    """A field that holds an object.

    Raises:
        UserError: It is missing or something else.
    """
    value = record.require(name)
    if not isinstance(value, dict):
        raise record.error(f"`{name}` is {json_type(value)}; it must be an object.")
    return value


def list_of_objects(record: Record, name: str) -> list[dict[str, object]]:
    """A field that holds a list of objects.

    Raises:
        UserError: It is missing or something else.
    """
    value = record.require(name)
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise record.error(f"`{name}` must be a list of objects.")
    return value


def inside(record: Record, fields: Mapping[str, object], path: str) -> NestedRecord:
    """A row further inside; `path` says where from the record on."""
    outer = record.path + "." if isinstance(record, NestedRecord) else ""
    return NestedRecord(dict(fields), record.file, record.line, record.key, record.unit, outer + path)
