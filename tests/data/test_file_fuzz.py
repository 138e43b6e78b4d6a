"""Whole files of every format, damaged in every way, loaded as every kind: only `UserError` comes out."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lightning.data.kinds import Demonstration, Prompt, Ranking, Row, Text
from rlhf_lightning.data.loading import load
from rlhf_lightning.errors import UserError

KEY = "data.init_args.train"
BOUNDED: dict[str, Any] = {"deadline": None, "derandomize": True}
CHAT = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}]
GOOD: list[tuple[type[Row], dict[str, Any]]] = [
    (Demonstration, {"prompt": "Hi.", "response": "Ho.", "id": 7}),
    (Demonstration, {"messages": CHAT, "flags": ["odd"]}),
    (Ranking, {"prompt": "Hi.", "responses": ["Ho.", "No.", "So."], "ranks": [1, 2, 2]}),
    (Ranking, {"prompt": CHAT[:1], "responses": ["Ho.", "No."], "scores": [0.5, -1]}),
    (Ranking, {"prompt": "Hi.", "chosen": "Ho.", "rejected": "No."}),
    (Ranking, {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "No."}]}),
    (Prompt, {"prompt": "Hi.", "labeler": "a"}),
    (Prompt, {"prompt": CHAT[:1]}),
    (Text, {"text": "Once upon a time."}),
]
KINDS = [Demonstration, Ranking, Prompt, Text]
TEXT_FORMATS = ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.json.gz"]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def attempt(kind: type[Row], name: str, content: bytes, skip: bool = False) -> list[Row] | None:
    """Rows, or None where the file was refused with a message that names it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            rows: list[Row] = load(kind, str(path), KEY, "skip" if skip else "error").rows
        except UserError as error:
            message = str(error)
        else:
            message = ""
    if message:
        assert message.startswith(KEY)
        assert str(path) in message
        assert "\n" not in message
        return None
    assert rows
    assert all(isinstance(row, kind) and row.line >= 1 for row in rows)
    return rows


def written(rows: list[Any], name: str) -> bytes:
    """Rows as a file of the format that the name says."""
    if ".csv" in name:
        table = io.StringIO()
        objects = [r for r in rows if isinstance(r, dict)] or [{"a": 1}]
        writer = csv.DictWriter(table, fieldnames=sorted({k for r in objects for k in r}), restval="")
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in r.items()} for r in objects)
        plain = table.getvalue().encode("utf-8", "surrogatepass")
    elif ".jsonl" in name:
        plain = "\n".join(json.dumps(r) for r in rows).encode()
    else:
        plain = json.dumps(rows, indent=1).encode()
    return gzip.compress(plain) if name.endswith(".gz") else plain


def mutated(data: st.DataObject, value: Any) -> Any:
    """A row with one value somewhere in it replaced, doubled or removed."""
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(value)))
        rest = {k: v for k, v in value.items() if k != name}
        return rest if data.draw(st.booleans()) else rest | {name: mutated(data, value[name])}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(value) - 1))
        middle = data.draw(st.sampled_from([[], [value[place]] * 2, [mutated(data, value[place])]]))
        return [*value[:place], *middle, *value[place + 1 :]]
    return data.draw(json_values)


@pytest.mark.parametrize(("kind", "row"), GOOD)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"])
def test_good_rows_are_read(kind: type[Row], row: dict[str, Any], name: str) -> None:
    rows = attempt(kind, name, written([row, row], name))
    assert rows is not None
    assert len(rows) == 2


@settings(max_examples=400, **BOUNDED)
@given(st.data(), st.sampled_from(GOOD), st.sampled_from(TEXT_FORMATS), st.booleans())
def test_mutated_rows(data: st.DataObject, good: tuple[type[Row], dict[str, Any]], name: str, skip: bool) -> None:
    kind, row = good
    rows = [row, mutated(data, row)] if data.draw(st.booleans()) else [mutated(data, row)]
    attempt(kind, name, written(rows, name), skip)


@settings(max_examples=200, **BOUNDED)
@given(st.lists(json_values, max_size=3), st.sampled_from(KINDS), st.sampled_from(TEXT_FORMATS), st.booleans())
def test_any_json(values: list[Any], kind: type[Row], name: str, skip: bool) -> None:
    attempt(kind, name, written(values, name), skip)


@settings(max_examples=300, **BOUNDED)
@given(st.data(), st.sampled_from(GOOD), st.sampled_from(TEXT_FORMATS))
def test_damaged_bytes(data: st.DataObject, good: tuple[type[Row], dict[str, Any]], name: str) -> None:
    content = written([good[1]] * 3, name)
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 8)))
    attempt(good[0], name, content[:start] + data.draw(st.binary(max_size=8)) + content[end:])


@settings(max_examples=200, **BOUNDED)
@given(st.binary(max_size=80), st.sampled_from(KINDS), st.sampled_from(TEXT_FORMATS), st.booleans())
def test_any_bytes(content: bytes, kind: type[Row], name: str, skip: bool) -> None:
    attempt(kind, name, content, skip)


COLUMNS: list[tuple[type[Row], dict[str, list[Any]]]] = [
    (Demonstration, {"prompt": ["Hi.", "Hi."], "response": ["Ho.", None]}),
    (Demonstration, {"prompt": [1, 2], "response": ["a", "b"]}),
    (Ranking, {"prompt": ["p"], "responses": [["a", "b"]], "ranks": [[1, None]]}),
    (Ranking, {"prompt": ["p"], "responses": [["a", None]], "ranks": [[1.0, 2.0]]}),
    (Prompt, {"prompt": [b"bytes"]}),
    (Prompt, {"prompt": [{"role": "user"}]}),
    (Prompt, {"question": ["p"]}),
    (Text, {"text": [None]}),
]


@pytest.mark.parametrize(("kind", "columns"), COLUMNS)
def test_parquet_columns_of_other_types(kind: type[Row], columns: dict[str, list[Any]]) -> None:
    assert attempt(kind, "a.parquet", parquet(columns)) is None


@settings(max_examples=25, **BOUNDED)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=6))
def test_damaged_parquet(position: int, junk: bytes) -> None:
    whole = parquet({"prompt": ["Hi.", "Ho."]})
    place = position % len(whole)
    attempt(Prompt, "a.parquet", whole[:place] + junk + whole[place + len(junk) :])
    attempt(Prompt, "a.parquet", whole[:place])


def parquet(columns: dict[str, list[Any]]) -> bytes:
    """A parquet file."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    buffer = io.BytesIO()
    files.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def test_a_line_break_in_a_fields_name_does_not_break_the_message(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a\\nb": 1}\n')
    with pytest.raises(UserError) as error:
        load(Prompt, str(path), KEY, "error")
    assert "`a\\nb`" in str(error.value)
    assert "\n" not in str(error.value)
