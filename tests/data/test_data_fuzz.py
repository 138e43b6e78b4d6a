"""Whatever the input, only `UserError` comes out."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.data.kinds import Demonstration, Message, Ranking
from rlhf_lightning.data.parsing import parse_demonstration, parse_prompt_row, parse_text_row
from rlhf_lightning.data.rankings import parse_ranking
from rlhf_lightning.data.reading import read_records
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError

# The same examples in every run: a red build means a change, not luck.
BOUNDED: dict[str, Any] = {"deadline": None, "derandomize": True}
PARSERS: list[Callable[[Record], Any]] = [
    parse_demonstration,
    parse_ranking,
    parse_prompt_row,
    parse_text_row,
]
NAMES = ["prompt", "response", "completion", "messages", "text", "id", "flags", "meta"]
NAMES += ["responses", "ranks", "scores", "chosen", "rejected"]
TURN = "\n\nHuman: q\n\nAssistant: "

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
texts = st.sampled_from(["", " ", "a", "b", "\ud800", TURN, TURN + "a", TURN + "b", TURN + "a" + TURN])
roles = st.sampled_from(["user", "assistant", "system", "tool"]) | scalars
messages = st.lists(st.fixed_dictionaries({}, optional={"role": roles, "content": texts | scalars}), max_size=4)
likely = texts | messages | st.lists(texts | messages, max_size=3) | st.lists(st.integers(0, 3) | scalars, max_size=3)
anything = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))
rows = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), likely | anything, max_size=6)


@settings(max_examples=400, **BOUNDED)
@given(rows)
def test_parsers(fields: dict[str, object]) -> None:
    for parse in PARSERS:
        row, error = outcome(partial(parse, Record(fields, "a.jsonl", 1)))
        if error is None:
            check(row)
        else:
            assert error.startswith("data: a.jsonl, line 1: ")


def outcome(attempt: Callable[[], Any]) -> tuple[Any, str | None]:
    """A result, or the message of the one kind of error that may be raised."""
    try:
        return attempt(), None
    except UserError as error:
        return None, str(error)


def check(row: Any) -> None:
    """What the trainers rely on."""
    assert len(json.dumps(vars(row), default=lambda v: vars(v))) > 0
    if isinstance(row, Ranking):
        assert len(row.responses) == len(row.ranks) >= 2
        assert set(row.ranks) == set(range(1, max(row.ranks) + 1))
        assert len(set(row.ranks)) > 1
        assert all(r.strip() for r in row.responses)
    if isinstance(row, Demonstration):
        assert isinstance(row.messages[0], Message)
        assert (row.messages[0].role, row.messages[-1].role) != ("assistant", "assistant")
        assert row.response.strip()


def read_all(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        records, error = outcome(lambda: list(read_records(str(path), "data")))
        for record in records or []:
            assert record.line >= 1
            assert isinstance(record.fields, dict)
        if error is not None:
            assert error.startswith(f"data: {path}")
            assert "\n" not in error


pieces = st.sampled_from([b"[", b"]", b"{", b"}", b",", b"\n", b" ", b'"', b'{"a": 1}', b'"a"', b":", b"\xff", b"\r"])
contents = st.binary(max_size=60) | st.lists(pieces, max_size=12).map(b"".join)


@settings(max_examples=300, **BOUNDED)
@given(contents, st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"]))
def test_readers_on_any_bytes(content: bytes, name: str) -> None:
    read_all(name, content)


@settings(max_examples=100, **BOUNDED)
@given(contents, st.integers(0, 200), st.integers(0, 255))
def test_damaged_gzip(content: bytes, position: int, value: int) -> None:
    whole = bytearray(gzip.compress(content))
    whole[position % len(whole)] = value
    read_all("a.jsonl.gz", bytes(whole))


@settings(max_examples=20, **BOUNDED)
@given(st.binary(max_size=40), st.booleans())
def test_parquet_on_any_bytes(content: bytes, framed: bool) -> None:
    pytest.importorskip("datasets")
    read_all("a.parquet", b"PAR1" + content + b"PAR1" if framed else content)


@settings(max_examples=100, **BOUNDED)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(), max_size=3), min_size=1, max_size=4))
def test_both_json_forms_give_what_was_written(values: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        for text in (json.dumps(values, indent=1), "\n".join(json.dumps(v) for v in values)):
            path.write_text(text)
            assert [r.fields for r in read_records(str(path), "data")] == values
