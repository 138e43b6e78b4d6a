"""Files that cannot be read as they are."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data.reading import read_records
from rlhf_lightning.errors import UserError

KEY = "data.init_args.train"
GOOD = b'{"prompt": "p"}\n'
TRUNCATED = gzip.compress(GOOD * 100)[:-12]
WRONG_SUM = gzip.compress(GOOD)[:-8] + b"\0" * 8
DAMAGED = gzip.compress(GOOD)[:10] + b"\xff" * 20

BAD_FILES: list[tuple[str, str, bytes, list[str]]] = [
    (
        "broken JSON",
        "a.jsonl",
        GOOD + b'{"prompt": "p",}\n',
        ["line 2, column 16", "broken JSON", "near", "one JSON"],
    ),
    ("cut-off JSON", "a.jsonl", GOOD + b'{"prompt": "p', ["line 2, column 12", "broken JSON"]),
    ("two objects", "a.jsonl", b'{"a": 1} {"b": 2}\n', ["line 1, column 10", "Extra data"]),
    ("pretty-printed", "a.jsonl", b'{\n  "prompt": "p"\n}\n', ["line 1", "one JSON object per line"]),
    ("deep nesting", "a.jsonl", b"[" * 100_000, ["line 1", "cannot be read"]),
    ("long number", "a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", ["line 1", "cannot be read"]),
    ("list line", "a.jsonl", GOOD + b"[1]\n", ["line 2", "is not an object but a list"]),
    (
        "Latin-1",
        "a.jsonl",
        GOOD + '{"prompt": "é"}'.encode("latin-1"),
        ["line 2", "not UTF-8", "0xe9", "Save"],
    ),
    ("UTF-16", "a.jsonl", '{"prompt": "p"}'.encode("utf-16"), ["line 1", "not UTF-8"]),
    ("empty", "a.jsonl", b"", ["is empty (no rows)"]),
    ("blank lines", "a.jsonl", b"\n \n\r\n", ["is empty (no rows)"]),
    ("truncated gzip", "a.jsonl.gz", TRUNCATED, ["gzip", "cut off or damaged after line"]),
    ("damaged gzip", "a.jsonl.gz", DAMAGED, ["cut off or damaged after line 0", "block type"]),
    ("changed gzip", "a.jsonl.gz", WRONG_SUM, ["cut off or damaged after line", "CRC"]),
    ("no gzip", "a.jsonl.gz", GOOD, ["gzip", "cut off or damaged after line 0"]),
    ("empty gzip", "a.jsonl.gz", gzip.compress(b""), ["is empty (no rows)"]),
    ("empty list", "a.json", b" [ ]\n", ["is empty (no rows)"]),
    ("list of strings", "a.json", b'[{"a": 1},\n "b"]', ["line 2", "is not an object but a string"]),
    ("open list", "a.json", b'[{"a": 1}\n', ["line 2", "Expecting ',' or ']'"]),
    ("no comma", "a.json", b'[{"a": 1}\n{"b": 2}]', ["line 2, column 1", "Expecting ',' or ']'"]),
    ("comma at the end", "a.json", b'[{"a": 1},\n]', ["line 2, column 1", "broken JSON"]),
    ("after the list", "a.json", b'[{"a": 1}]\nmore', ["line 2, column 1", "Extra data after the list"]),
    ("Latin-1 in a list", "a.json", b'[{"a": 1},\n"\xe9"]', ["line 2", "not UTF-8"]),
    ("deep list", "a.json", b"[" * 100_000, ["line 1", "cannot be read"]),
    ("CSV empty", "a.csv", b"", ["is empty (no rows)"]),
    ("CSV header only", "a.csv", b"prompt,response\n", ["is empty (no rows)"]),
    ("CSV too many cells", "a.csv", b"prompt\np\nHello, world\n", ["line 3", "2 cells", "double quotes"]),
    (
        "CSV too few cells",
        "a.csv",
        b'prompt,response\n"a\nb",c\np\n',
        ["line 4", "1 cells, but the header has 2"],
    ),
    ("CSV open quote", "a.csv", b'prompt\nq\n"p\nq\nq\n', ["line 3", "broken CSV", "quote opens", "never closed"]),
    ("CSV two columns of a name", "a.csv", b"a,b,a\n1,2,3\n", ["line 1", "['a'] more than once"]),
    ("CSV unnamed column", "a.csv", b"a,\n1,2\n", ["line 1", "a column without a name"]),
    ("CSV Latin-1", "a.csv", b"a\n1\n\xe9\n", ["line 3", "not UTF-8"]),
    ("parquet that is none", "a.parquet", b"junk", ["cannot be read", "really a parquet file"]),
    ("parquet empty", "a.parquet", b"", ["cannot be read"]),
    ("unknown extension", "a.txt", GOOD, ["unknown extension", ".jsonl.gz", ".parquet"]),
]


def error_of(source: Any) -> str:
    with pytest.raises(UserError) as caught:
        list(read_records(source, KEY))
    message = str(caught.value)
    assert message.startswith(f"{KEY}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("name", "content", "parts"), [pytest.param(*c[1:], id=c[0]) for c in BAD_FILES])
def test_error_names_the_file_and_the_line(tmp_path: Path, name: str, content: bytes, parts: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = error_of(str(path))
    assert str(path) in message
    for part in parts:
        assert part in message


BAD_NAMES: list[tuple[str, Callable[[Path], Any], list[str]]] = [
    ("missing", lambda d: str(d / "no.jsonl"), ["there is no file", "no.jsonl", "Check the path"]),
    ("missing, relative", lambda d: "no/such.jsonl", ["there is no file no/such.jsonl (looked in "]),
    ("missing, one word", lambda d: "nosuch", ["there is no file nosuch", "'org/name'"]),
    ("glob of nothing", lambda d: str(d / "*.jsonl"), ["no file matches", "*.jsonl"]),
    ("glob of others", lambda d: str(d / "*"), ["notes.md", "unknown extension"]),
    ("directory", lambda d: str(d), ["is a directory", "*.jsonl"]),
    ("in a directory here", lambda d: "here/train", ["there is no file here/train"]),
    ("second missing", lambda d: [str(d / "notes.md"), "no.csv"], ["notes.md", "unknown extension"]),
    ("empty list", lambda d: [], ["the list of files is empty"]),
    ("empty name", lambda d: " ", ["a file name is empty"]),
    ("None", lambda d: None, ["is None", "give a path"]),
    ("numbers", lambda d: [1], ["is [1]", "give a path"]),
    ("mapping", lambda d: {"a": 1}, ["give a path"]),
    ("NUL byte", lambda d: "a\0.jsonl", ["there is no file"]),
]


@pytest.mark.parametrize(("make", "parts"), [pytest.param(*c[1:], id=c[0]) for c in BAD_NAMES])
def test_error_names_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Any], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "here").mkdir()
    message = error_of(make(tmp_path))
    for part in parts:
        assert part in message


def test_names_are_checked_before_the_first_row(tmp_path: Path) -> None:
    good = tmp_path / "a.jsonl"
    good.write_bytes(GOOD)
    with pytest.raises(UserError, match="there is no file"):
        next(read_records([str(good), str(tmp_path / "b.jsonl")], KEY))


def test_an_empty_file_among_others_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(b"")
    assert "b.jsonl: is empty" in error_of(str(tmp_path / "*.jsonl"))


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rlhf_lightning.data.text_lines._open", refuse)  # root may open anything
    assert "a.jsonl: cannot be read (Permission denied)" in error_of(str(path))


def test_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = error_of("org/name")
    for part in ("org/name:train", "ConnectionError: no route", "Check the name, the split and the network"):
        assert part in message
