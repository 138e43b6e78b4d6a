"""Every form of file and row that the contract accepts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, Ranking, Row, Text
from rlhf_lightning.data.loading import load
from rlhf_lightning.data.reading import read_records
from rlhf_lightning.errors import UserError

KEY = "data.init_args.train"
U, A = Message("user", "q"), Message("assistant", "a")
USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": ""}
ROWS = [{"prompt": "é 1", "n": 1}, {"prompt": "p2", "n": 2}, {"prompt": "p3", "n": 3}]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def one(tmp_path: Path, kind: type[Row], row: dict[str, Any]) -> Any:
    (tmp_path / "row.jsonl").write_bytes(lines([row]))
    return load(kind, str(tmp_path / "row.jsonl"), KEY).rows[0]


FILES: dict[str, tuple[str, bytes, list[int]]] = {
    "JSON lines": ("a.jsonl", lines(ROWS), [1, 2, 3]),
    "no last line end": ("a.jsonl", lines(ROWS).rstrip(), [1, 2, 3]),
    "blank lines": ("a.jsonl", lines(ROWS).replace(b"\n", b"\n\n"), [1, 3, 5]),
    "Windows": ("a.JSONL", b"\xef\xbb\xbf" + lines(ROWS).replace(b"\n", b"\r\n"), [1, 2, 3]),
    "gzip": ("a.jsonl.gz", gzip.compress(lines(ROWS)), [1, 2, 3]),
    "JSON list": ("a.json", json.dumps(ROWS).encode(), [1, 1, 1]),
    "indented list": ("a.json", b"\n" + json.dumps(ROWS, indent=1).encode(), [3, 7, 11]),
    "JSON lines in .json": ("a.json", lines(ROWS), [1, 2, 3]),
    "gzipped list": ("a.json.gz", gzip.compress(json.dumps(ROWS).encode()), [1, 1, 1]),
    "name with a pattern in it": ("a[1].jsonl", lines(ROWS), [1, 2, 3]),
}


@pytest.mark.parametrize(("name", "content", "at"), [pytest.param(*c, id=i) for i, c in FILES.items()])
def test_json_files(tmp_path: Path, name: str, content: bytes, at: list[int]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    records = list(read_records(str(path), KEY))
    assert [r.fields for r in records] == ROWS
    assert [r.line for r in records] == at
    assert {r.file for r in records} == {str(path)}


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = "x" * 200_000
    path.write_bytes(b'prompt,response,id\r\n"two\nlines",4,\r\np,NA,7\r\n\r\nq,"a, ""b""",' + long.encode())
    rows = load(Demonstration, str(path), KEY).rows
    assert [(r.prompt, r.response, r.id) for r in rows] == [
        ("two\nlines", "4", None),
        ("p", "NA", "7"),
        ("q", 'a, "b"', long),
    ]
    assert [r.line for r in rows] == [2, 4, 6]


def test_parquet_with_gaps_and_an_odd_name(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"prompt": [USER], "responses": ["a", "b"], "ranks": [2, 1], "scores": None, "id": 5},
        {
            "prompt": [USER],
            "responses": ["a", "b", "c"],
            "ranks": None,
            "scores": [0.0, 2.0, 1.0],
            "id": None,
        },
        {"prompt": [USER], "responses": ["a"], "ranks": [1], "scores": None, "id": 6},
    ]
    path = tmp_path / "a[1] b.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.warns(UserWarning, match=r"left out 1 bad rows of 3.*row 3: `responses` has K = 1"):
        loaded = load(Ranking, str(path), KEY, on_bad_row="skip")
    assert [(r.prompt, r.ranks, r.id, r.meta) for r in loaded.rows] == [
        ((U,), (2, 1), "5", {}),
        ((U,), (3, 1, 2), None, {}),
    ]


def test_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    asked = []

    def give(name: str, split: str, streaming: bool) -> list[dict[str, Any]]:
        asked.append((name, split, streaming))
        return [{"prompt": split}]

    monkeypatch.setattr(datasets, "load_dataset", give)
    rows = load(Prompt, ["org/name", "org/na.me-2:test_1"], KEY).rows
    assert asked == [("org/name", "train", True), ("org/na.me-2", "test_1", True)]
    assert [(r.prompt, r.file, r.line) for r in rows] == [
        ("train", "org/name:train", 1),
        ("test_1", "org/na.me-2:test_1", 1),
    ]


def test_globs_are_sorted_and_lists_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deep.jsonl").mkdir()  # a directory that matches is not a file
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "z.csv"):
        content = f"prompt\n{name}\n" if name.endswith("csv") else json.dumps({"prompt": name})
        (tmp_path / name).write_text(content)
    prompts = [r.prompt for r in load(Prompt, ["z.csv", "**/*.jsonl", "a.jsonl"], KEY).rows]
    assert prompts == ["z.csv", "a.jsonl", "b.jsonl", "sub/c.jsonl", "a.jsonl"]


CHAT = [SYSTEM, USER]
CHAT_PROMPT = (Message("system", ""), U)
DEMONSTRATIONS: list[tuple[dict[str, Any], tuple[Message, ...], Any]] = [
    ({"prompt": "q", "response": "a"}, (U, A), "q"),
    ({"prompt": "q", "completion": "a"}, (U, A), "q"),
    ({"prompt": [USER], "response": "a"}, (U, A), (U,)),
    ({"prompt": CHAT, "completion": [BOT]}, (*CHAT_PROMPT, A), CHAT_PROMPT),
    ({"prompt": [USER, BOT, USER], "response": "a"}, (U, A, U, A), (U, A, U)),
    ({"messages": [*CHAT, BOT]}, (*CHAT_PROMPT, A), CHAT_PROMPT),
    ({"messages": [USER, BOT, USER, BOT], "prompt": "q", "response": None}, (U, A, U, A), (U, A, U)),
]


@pytest.mark.parametrize(("row", "messages", "prompt"), DEMONSTRATIONS)
def test_demonstrations(tmp_path: Path, row: dict[str, Any], messages: tuple[Message, ...], prompt: Any) -> None:
    parsed = one(tmp_path, Demonstration, row)
    assert parsed.messages == messages
    assert parsed.prompt == prompt
    assert parsed.response == "a"


HH = "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: and?\n\nAssistant:"
RANKINGS: list[tuple[dict[str, Any], Any, tuple[str, ...], tuple[int, ...]]] = [
    ({"prompt": "q", "responses": ["a", "b"], "ranks": [1, 2]}, "q", ("a", "b"), (1, 2)),
    (
        {"prompt": "q", "responses": ["a", "b", "c", "d"], "ranks": [5, 2, 2, 9]},
        "q",
        tuple("abcd"),
        (2, 1, 1, 3),
    ),
    ({"prompt": "q", "responses": ["a", "b", "c"], "scores": [-1, 2.5, -1.0]}, "q", tuple("abc"), (2, 1, 2)),
    ({"prompt": "q", "responses": ["a", "b", "c"], "scores": [3, 10**400, 1]}, "q", tuple("abc"), (2, 1, 3)),
    # A judge's ranks may tie what its scores tell apart.
    (
        {"prompt": "q", "responses": ["a", "b", "c"], "ranks": [1, 1, 2], "scores": [0.1, 0.2, -1]},
        "q",
        tuple("abc"),
        (1, 1, 2),
    ),
    ({"prompt": [USER], "responses": [[BOT], "b"], "ranks": [2, 1]}, (U,), ("a", "b"), (2, 1)),
    ({"prompt": "q", "responses": ["a", "a", "b"], "ranks": [1, 2, 3]}, "q", ("a", "a", "b"), (1, 2, 3)),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", ("a", "b"), (1, 2)),
    ({"prompt": [USER], "chosen": [BOT], "rejected": [OTHER]}, (U,), ("a", "b"), (1, 2)),
    ({"prompt": "q", "chosen": [USER, BOT], "rejected": [USER, OTHER]}, "q", ("a", "b"), (1, 2)),
    ({"chosen": [*CHAT, BOT], "rejected": [*CHAT, OTHER]}, CHAT_PROMPT, ("a", "b"), (1, 2)),
    ({"chosen": HH + " yes, a", "rejected": HH + " yes, b"}, HH, ("yes, a", "yes, b"), (1, 2)),
    ({"chosen": HH + " yes", "rejected": HH + " yes and"}, HH, ("yes", "yes and"), (1, 2)),
]


@pytest.mark.parametrize(("row", "prompt", "responses", "ranks"), RANKINGS)
def test_rankings(tmp_path: Path, row: Any, prompt: Any, responses: tuple[str, ...], ranks: tuple[int, ...]) -> None:
    parsed = one(tmp_path, Ranking, row)
    assert (parsed.prompt, parsed.responses, parsed.ranks) == (prompt, responses, ranks)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["toxic", "x"], ("toxic", "x")),
        ("toxic", ("toxic",)),
        ({"toxic": True, "x": False, "y": None}, ("toxic",)),
    ],
)
def test_optional_fields(tmp_path: Path, flags: Any, expected: tuple[str, ...]) -> None:
    row = {"prompt": "q", "id": 7, "source": "s", "category": "c", "labeler": "l", "labeler_group": 2}
    parsed = one(tmp_path, Prompt, {**row, "flags": flags, "check": {"max_words": 5}, "title": None})
    assert (parsed.id, parsed.source, parsed.category) == ("7", "s", "c")
    assert (parsed.labeler, parsed.labeler_group, parsed.flags) == ("l", "2", expected)
    assert parsed.meta == {"check": {"max_words": 5}}
    assert (parsed.file, parsed.line) == (str(tmp_path / "row.jsonl"), 1)


def test_text_and_hash(tmp_path: Path) -> None:
    parsed = one(tmp_path, Text, {"text": " t\n", "title": "T"})
    assert (parsed.text, parsed.meta) == (" t\n", {"title": "T"})
    assert len({parsed, parsed}) == 1


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "p"}\nbroken')
    records = read_records(str(path), KEY)
    assert next(records).line == 1  # before line 2 has been looked at
    with pytest.raises(UserError, match="line 2"):
        next(records)
