"""A JSON list read in pieces gives what it gives when read whole, wherever the cuts are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf_lightning.data import json_list, text_lines
from rlhf_lightning.data.json_list import BrokenListError, list_elements
from rlhf_lightning.data.reading import read_records
from rlhf_lightning.errors import UserError

KEY = "data.init_args.train"
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))
lists = st.lists(values, max_size=5)
MARKS = ["[", "]", "{", "}", ",", ":", "\n", " ", '"', "\\", "\\ud83d", "true", "-Infinity", "12", '{"a": "b"}', '"a"']
broken = st.lists(st.sampled_from(MARKS), max_size=14).map(lambda parts: "[" + "".join(parts))


def outcome(chunks: list[str]) -> tuple[list[Any], Any]:
    """The elements with their lines, and where it broke."""
    found: list[Any] = []
    try:
        found.extend(repr(element) for element in list_elements(iter(chunks)))
    except BrokenListError as error:
        return found, (str(getattr(error.cause, "msg", "")), error.line, error.column, error.excerpt)
    return found, None


def cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


@settings(max_examples=300, deadline=None)
@given(lists, st.sampled_from([None, 1]), st.integers(1, 40))
def test_what_was_written_comes_back(written: list[Any], indent: int | None, size: int) -> None:
    text = json.dumps(written, indent=indent)
    found = list(list_elements(iter(cut(text, size))))
    assert repr([value for _, value in found]) == repr(json.loads(text))
    lines = text.split("\n")
    for line, value in found:
        first = json.dumps(value, indent=indent).split("\n")[0]
        assert first in lines[line - 1]


@settings(max_examples=500, deadline=None)
@given(broken, st.integers(1, 30))
@example('["' + "a" * 200 + '", tru]' + "\n" * 30, 7)
@example('[{"a": 1}\n{"b": 2}, {"c": 3}, {"d": 4}, {"e": 5}]', 3)
def test_cuts_do_not_move_an_error(text: str, size: int) -> None:
    assert outcome(cut(text, size)) == outcome([text])


@settings(max_examples=300, deadline=None)
@given(broken)
def test_the_same_texts_are_accepted_as_by_the_json_module(text: str) -> None:
    found, error = outcome([text])
    try:
        expected = json.loads(text)
    except json.JSONDecodeError as theirs:
        expected = theirs
    if not isinstance(expected, Exception):
        assert (len(found), error) == (len(expected), None)
    # At the list's own commas and brackets the messages, and so the places, are ours.
    elif not error[0].startswith(("Expecting", "Extra")):
        assert error[1:3] == (expected.lineno, expected.colno)


def test_an_error_is_reported_without_reading_on() -> None:
    read = []

    def chunks() -> Iterator[str]:
        for n in range(1000):
            read.append(n)
            yield '[{"a": 1}, {"a" 2},' if n == 0 else '{"a": 1}, ' * 10

    with pytest.raises(BrokenListError, match="':' delimiter"):
        list(list_elements(chunks()))
    assert len(read) < 5


def test_an_element_without_end_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "_LONGEST_ELEMENT", 2**20)

    def chunks() -> Iterator[str]:
        yield '[{"a": 1}, "'
        while True:
            yield "a" * 1000

    elements = list_elements(chunks())
    assert next(elements) == (1, {"a": 1})
    with pytest.raises(BrokenListError, match="element of more than 1 MiB"):
        next(elements)


def test_a_list_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "_CHUNK", 16)
    path = tmp_path / "a.json"
    path.write_bytes(
        b"\xef\xbb\xbf\n"
        + b" " * 40
        + b'[{"a": "'
        + "é".encode() * 100
        + b'"},\n {"b": "'
        + b"b" * 400
        + b'"},\n{"c": \xff}]'
    )
    records = read_records(str(path), KEY)
    assert [r.fields for r in islice(records, 1)] == [{"a": "é" * 100}]
    with pytest.raises(UserError, match=r"a.json, line 4: not UTF-8 \(byte 0xff at position 7\)"):
        list(records)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(text_lines, "_LONGEST_LINE", 2**20)
    content = b'{"a": 1}\n["' + b"a" * 2**21
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(UserError, match=r"line 2: is longer than 1 MiB. Write one row per line"):
        list(read_records(str(tmp_path / name), KEY))


@pytest.mark.parametrize("size", range(1, 12))
def test_the_place_of_a_bad_byte_does_not_depend_on_the_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(text_lines, "_CHUNK", size)
    (tmp_path / "a.json").write_bytes("[\n1, 'éé".encode() + b"\xe2\x82A'")
    with pytest.raises(UserError, match=r"line 2: not UTF-8 \(byte 0xe2 at position 9\)"):
        list(text_lines.text_chunks(str(tmp_path / "a.json"), KEY))
