"""Data that cannot be trained on, through the command line: the message names key, file and row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bad_inputs.refusal import Refusal

KEY = "data.init_args.train"
GOOD: dict[str, dict[str, Any]] = {
    "sft": {"prompt": "Name a fruit.", "response": "Corn."},
    "reward": {"prompt": "Name a fruit.", "responses": ["Pear.", "no", "zz"], "ranks": [1, 2, 2]},
    "ppo": {"prompt": "Name a fruit."},
}
USER, BOT = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}


def ranking(**changes: Any) -> dict[str, Any]:
    return GOOD["reward"] | changes


ROWS: list[tuple[str, Any, list[str]]] = [
    ("sft", {"prompt": "Name a fruit."}, ["`response` is missing", "Add it"]),
    ("sft", {"response": "Pear."}, ["`prompt` is missing", "Add it"]),
    ("sft", {"prompt": "Hi.", "response": " \n"}, ["`response` is empty", "delete the row"]),
    ("sft", {"prompt": ["Hi."], "response": "Ho."}, ["`prompt[0]` is a string", "role"]),
    ("sft", {"prompt": "Hi.", "response": 3}, ["`response` is a number", "string"]),
    ("sft", {"messages": [USER]}, ["`messages` has no assistant message", "add the response"]),
    ("sft", {"messages": [USER, BOT, USER]}, ["ends with the user", "must be the assistant's"]),
    ("sft", {"messages": [USER, {"role": "bot", "content": "Ho."}]}, ["`messages[1].role` is 'bot'", "assistant"]),
    ("sft", {"prompt": "Hi.", "response": "\ud800"}, ["half of a character", "repair the text"]),
    ("sft", {"prompt": "Hi.", "response": "Ho.", "id": []}, ["`id` is a list", "string or a whole number"]),
    ("sft", GOOD["reward"], ["`response` is missing", "`responses`", "other data"]),
    ("sft", {"prompt": "long " * 100, "response": "Ho."}, ["507 tokens", "max_prompt_tokens = 128", "Raise the"]),
    ("reward", {"prompt": "Hi.", "responses": ["a", "b"]}, ["`ranks` is missing", "`scores`"]),
    ("reward", ranking(ranks=[1, 2]), ["`ranks` has 2 entries for 3 responses", "one per response"]),
    ("reward", ranking(ranks=[0, 1, 2]), ["`ranks` must be whole numbers from 1"]),
    ("reward", ranking(ranks=["1", "2", "3"]), ["`ranks` must be whole numbers"]),
    ("reward", ranking(ranks=[1, 1, 1]), ["`ranks` ties all responses", "Delete the row"]),
    ("reward", ranking(responses=["Pear."], ranks=[1]), ["K = 1", "at least 2"]),
    ("reward", ranking(responses=["a", "a", "a"]), ["all the same text", "Delete the row"]),
    ("reward", ranking(responses=["a", "", "c"]), ["`responses[1]` is empty"]),
    ("reward", ranking(scores=[1, 2, 3]), ["contradict", "correct one"]),
    ("reward", {"prompt": "Hi.", "chosen": "a", "rejected": "a"}, ["are the same", "Delete the row"]),
    ("reward", {"prompt": "Hi.", "chosen": "a"}, ["`rejected` is missing"]),
    ("reward", GOOD["sft"], ["`responses` is missing", "other data"]),
    ("reward", ranking(prompt="long " * 100), ["max_prompt_tokens = 128"]),
    ("ppo", {"question": "Hi."}, ["`prompt` is missing", "`question`"]),
    ("ppo", {"prompt": [USER, BOT]}, ["ends with an assistant message"]),
    ("ppo", {"prompt": {"text": "Hi."}}, ["`prompt` is an object"]),
    ("ppo", {"prompt": None}, ["`prompt` is null"]),
    ("ppo", {"prompt": "long " * 100}, ["max_prompt_tokens = 128", "on_long_prompt"]),
    *[(stage, text, parts) for stage in GOOD for text, parts in (("{broken", ["broken JSON", "one JSON object"]),)],
    *[(stage, ["a list"], ["is not an object but a list"]) for stage in GOOD],
]


@pytest.mark.parametrize(("stage", "row", "parts"), ROWS, ids=range(len(ROWS)))
def test_row(refused: Refusal, tmp_path: Path, stage: str, row: Any, parts: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(GOOD[stage]), row if isinstance(row, str) else json.dumps(row)]))
    message = refused(stage, f"--{KEY}", str(path), parts=[str(path), *parts])
    assert f"{path}, line 2" in message or f"{path}:2" in message


ROW = json.dumps(GOOD["sft"]).encode() + b"\n"
FILES: list[tuple[str, str, bytes, list[str]]] = [
    ("empty", "a.jsonl", b"", ["is empty (no rows)"]),
    ("blank", "a.jsonl", b"\n\n", ["is empty (no rows)"]),
    ("byte order mark only", "a.jsonl", b"\xef\xbb\xbf", ["is empty (no rows)"]),
    ("Latin-1", "a.jsonl", ROW + '{"prompt": "é"}'.encode("latin-1"), ["line 2", "not UTF-8", "Save the file"]),
    ("UTF-16", "a.jsonl", ROW.decode().encode("utf-16"), ["line 1", "not UTF-8"]),
    ("NUL bytes", "a.jsonl", ROW + b"\0\0\0\n", ["line 2", "broken JSON"]),
    ("pretty-printed", "a.jsonl", json.dumps(GOOD["sft"], indent=1).encode(), ["line 1", "one JSON object per line"]),
    ("two rows in a line", "a.jsonl", ROW.strip() + ROW, ["line 1", "broken JSON (Extra data)"]),
    ("Python's quotes", "a.jsonl", b"{'prompt': 'p', 'response': 'r'}", ["line 1", "broken JSON"]),
    ("cut off gzip", "a.jsonl.gz", gzip.compress(ROW * 50)[:-20], ["gzip", "cut off", "again"]),
    ("no gzip", "a.jsonl.gz", ROW, ["gzip", "damaged"]),
    ("open list", "a.json", b"[" + ROW, ["line 2", "broken JSON"]),
    ("one object", "a.json", json.dumps(GOOD["sft"], indent=1).encode(), ["line 1", "broken JSON"]),
    ("CSV with too many cells", "a.csv", b"prompt,response\na,b\na,b,c\n", ["line 3", "3 cells", "double quotes"]),
    ("CSV without a header", "a.csv", b"Name a fruit.,Pear.\nHi.,Ho.\n", ["line 2", "`prompt` is missing"]),
    ("CSV with an open quote", "a.csv", b'prompt,response\n"a,b\n', ["broken CSV", "never closed"]),
    ("CSV with an empty cell", "a.csv", b"prompt,response\na,\n", ["line 2", "`response` is empty"]),
    ("parquet that is none", "a.parquet", ROW, ["cannot be read", "parquet"]),
    ("text", "a.txt", ROW, ["unknown extension", ".jsonl"]),
    ("no extension", "a", ROW, ["unknown extension"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), [pytest.param(*c[1:], id=c[0]) for c in FILES])
def test_file(refused: Refusal, tmp_path: Path, name: str, content: bytes, parts: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused("sft", f"--{KEY}", str(path), parts=[KEY, str(path), *parts])


@pytest.mark.parametrize("split", ["train", "val", "demonstrations"])
def test_every_split_is_read_before_training(refused: Refusal, tmp_path: Path, split: str) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    parts = [f"data.init_args.{split}", "rows.jsonl, line 1", "is missing"]
    refused("reward", f"--data.init_args.{split}", str(tmp_path / "rows.jsonl"), parts=parts)


def test_directory(refused: Refusal, tmp_path: Path) -> None:
    refused("ppo", f"--{KEY}", str(tmp_path), parts=[KEY, "is a directory", "*.jsonl"])


@pytest.mark.parametrize("name", ["nowhere.jsonl", "no/*.jsonl", "configs/tiny/data/prompt.jsonl", "configs/tiny"])
def test_name(refused: Refusal, name: str) -> None:
    refused("ppo", f"--{KEY}", name, parts=[KEY, name])


def test_all_rows_dropped(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROW)
    args = ("--data.init_args.max_prompt_tokens", "3", "--data.init_args.on_long_prompt", "drop")
    parts = [KEY, "no rows are left", "raise data.init_args.max_prompt_tokens"]
    refused("sft", f"--{KEY}", str(tmp_path / "a.jsonl"), *args, parts=parts)


def test_all_rows_skipped(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": ""}\n{"prompt": 3}\n')
    parts = [KEY, "none of 2 rows can be used", "line 1", "`prompt` is empty"]
    refused("ppo", f"--{KEY}", str(tmp_path / "a.jsonl"), "--data.init_args.on_bad_row", "skip", parts=parts)


LONG = "many words " * 60
TOO_LONG: list[tuple[str, dict[str, Any], str, list[str]]] = [
    ("sft", GOOD["sft"] | {"response": LONG}, "max_response_tokens", ["max_prompt_tokens or max_response_tokens"]),
    ("sft", GOOD["sft"] | {"prompt": LONG}, "max_prompt_tokens", ["max_prompt_tokens or max_response_tokens"]),
    ("reward", ranking(responses=["a", LONG, "c"]), "max_response_tokens", ["max_response_tokens"]),
    ("ppo", {"prompt": LONG}, "max_prompt_tokens", ["(12 of them to be sampled)", "sampling.max_response_tokens"]),
]


@pytest.mark.parametrize(("stage", "row", "limit", "parts"), TOO_LONG, ids=[f"{s}-{n}" for s, _, n, _ in TOO_LONG])
def test_row_beyond_the_context(
    refused: Refusal, tmp_path: Path, stage: str, row: dict[str, Any], limit: str, parts: list[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD[stage]) + "\n" + json.dumps(row))
    args = (f"--{KEY}", str(path), f"--data.init_args.{limit}", "1000")
    refused(stage, *args, parts=[f"{path}:2", "the model's context length is 512", "Lower", *parts])


def test_rollout_beyond_the_context(refused: Refusal) -> None:
    parts = ["600 of them to be sampled", "512", "model.init_args.sampling.max_response_tokens"]
    refused("ppo", "--model.init_args.sampling.max_response_tokens", "600", parts=parts)
