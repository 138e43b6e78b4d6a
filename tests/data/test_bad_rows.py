"""Every broken row gives one error that names key, file, line and field and says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data.kinds import Demonstration, Prompt, Ranking, Row, Text
from rlhf_lightning.data.loading import load
from rlhf_lightning.errors import UserError

KEY = "data.init_args.train"
GOOD: dict[type[Row], dict[str, Any]] = {
    Demonstration: {"prompt": "Say hi.", "response": "Hi."},
    Ranking: {"prompt": "Say hi.", "responses": ["Hi.", "No."], "ranks": [1, 2]},
    Prompt: {"prompt": "Say hi."},
    Text: {"text": "Once upon a time."},
}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def bot(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def ranked(**changes: Any) -> dict[str, Any]:
    row = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 2, 3], **changes}
    return {name: value for name, value in row.items() if value != "DROP"}


H, A = "\n\nHuman: ", "\n\nAssistant:"
BAD_DEMONSTRATIONS: list[tuple[str, Any, list[str]]] = [
    ("no prompt", {"response": "r"}, ["`prompt` is missing", "`response`"]),
    ("no response", {"prompt": "p"}, ["`response` is missing", "the row has `prompt`"]),
    ("nothing", {}, ["`prompt` is missing", "no fields"]),
    ("null response", {"prompt": "p", "response": None}, ["`response` is null"]),
    ("number prompt", {"prompt": 3, "response": "r"}, ["`prompt` is a number", "string or a list"]),
    ("object response", {"prompt": "p", "response": {"a": 1}}, ["`response` is an object"]),
    ("empty response", {"prompt": "p", "response": ""}, ["`response` is empty", "delete the row"]),
    ("blank prompt", {"prompt": " \n\t", "response": "r"}, ["`prompt` is empty"]),
    ("empty completion", {"prompt": "p", "completion": " "}, ["`completion` is empty"]),
    (
        "two answers",
        {"prompt": "p", "response": "r", "completion": "s"},
        ["`response` and `completion`", "keep"],
    ),
    (
        "half a character",
        {"prompt": "p", "response": "\ud83d"},
        ["`response`", "half of a character", "\\ud83d"],
    ),
    ("empty chat prompt", {"prompt": [], "response": "r"}, ["`prompt` is an empty list"]),
    (
        "prompt ends with answer",
        {"prompt": [user("u"), bot("a")], "response": "r"},
        ["`prompt` ends with an assi"],
    ),
    (
        "response by user",
        {"prompt": "p", "response": [user("u")]},
        ["`response` has user", "one assistant message"],
    ),
    (
        "two responses",
        {"prompt": "p", "response": [bot("a"), bot("b")]},
        ["`response` has assistant, assistant"],
    ),
    ("messages a string", {"messages": "hi"}, ["`messages` is a string", "list of"]),
    ("messages empty", {"messages": []}, ["`messages` is an empty list"]),
    ("message a string", {"messages": ["hi"]}, ["`messages[0]` is a string"]),
    (
        "unknown role",
        {"messages": [user("u"), {"role": "gpt", "content": "x"}]},
        ["`messages[1].role` is 'gpt'"],
    ),
    ("role a list", {"messages": [{"role": [], "content": "x"}]}, ["`messages[0].role` is []"]),
    (
        "no role",
        {"messages": [{"content": "x"}]},
        ["`messages[0].role` is missing", "system, user or assistant"],
    ),
    ("no content", {"messages": [{"role": "user"}]}, ["`messages[0].content` is missing"]),
    ("null content", {"messages": [user("u"), bot(None)]}, ["`messages[1].content` is null"]),
    ("empty turn", {"messages": [user("u"), bot("")]}, ["`messages[1].content` is empty"]),
    ("no assistant", {"messages": [user("u")]}, ["`messages` has no assistant message"]),
    ("user last", {"messages": [user("u"), bot("a"), user("v")]}, ["ends with the user"]),
    ("assistant first", {"messages": [bot("a")]}, ["begins with the assistant", "prompt is missing"]),
    ("id a list", {"prompt": "p", "response": "r", "id": [1]}, ["`id` is a list"]),
    ("labeler a bool", {"prompt": "p", "response": "r", "labeler": True}, ["`labeler` is true or false"]),
    ("flags a number", {"prompt": "p", "response": "r", "flags": 1}, ["`flags` must be a list of names"]),
]
BAD_RANKINGS: list[tuple[str, Any, list[str]]] = [
    ("no responses", {"prompt": "p", "ranks": [1, 2]}, ["`responses` is missing"]),
    ("responses a string", ranked(responses="ab"), ["`responses` is a string", "list"]),
    ("K = 1", ranked(responses=["a"], ranks=[1]), ["`responses` has K = 1", "at least 2"]),
    ("K = 0", ranked(responses=[], ranks=[]), ["K = 0"]),
    ("empty response", ranked(responses=["a", " ", "c"]), ["`responses[1]` is empty"]),
    ("number response", ranked(responses=["a", "b", 3]), ["`responses[2]` is a number"]),
    ("same responses", ranked(responses=["a", "a", "a"]), ["all the same text", "nothing to learn"]),
    ("no order", ranked(ranks="DROP"), ["`ranks` is missing", "`scores`"]),
    ("ranks too short", ranked(ranks=[1, 2]), ["`ranks` has 2 entries for 3 responses"]),
    ("ranks a number", ranked(ranks=1), ["`ranks` is a number", "one number per response"]),
    ("ranks from 0", ranked(ranks=[0, 1, 2]), ["`ranks` must be whole numbers from 1"]),
    ("ranks floats", ranked(ranks=[1.5, 2, 3]), ["`ranks` must be whole numbers"]),
    ("ranks bools", ranked(ranks=[True, 2, 3]), ["`ranks` must be whole numbers"]),
    ("ranks strings", ranked(ranks=["1", "2", "3"]), ["`ranks` must be whole numbers"]),
    ("ranks tie", ranked(ranks=[2, 2, 2]), ["`ranks` ties all responses", "nothing to learn"]),
    ("scores tie", ranked(ranks="DROP", scores=[0.5, 0.5, 0.5]), ["`scores` ties all responses"]),
    ("scores too long", ranked(ranks="DROP", scores=[1, 2, 3, 4]), ["`scores` has 4 entries for 3"]),
    ("scores NaN", ranked(ranks="DROP", scores=[1, float("nan"), 3]), ["`scores[1]` is nan", "finite"]),
    ("scores infinite", ranked(ranks="DROP", scores=[1, 2, float("inf")]), ["`scores[2]` is inf", "finite"]),
    ("scores strings", ranked(ranks="DROP", scores=[1, "2", 3]), ["`scores[1]` is a string", "numbers"]),
    ("scores bools", ranked(ranks="DROP", scores=[True, 2, 3]), ["`scores[0]` is true or false"]),
    (
        "contradiction",
        ranked(scores=[1.0, 2.0, 3.0]),
        ["`ranks` and `scores` contradict", "higher is better"],
    ),
    ("two forms", ranked(chosen="a", rejected="b"), ["both `responses` and `chosen`/`rejected`"]),
    ("no rejected", {"prompt": "p", "chosen": "a"}, ["`rejected` is missing"]),
    ("no chosen", {"prompt": "p", "rejected": "a"}, ["`chosen` is missing"]),
    ("empty rejected", {"prompt": "p", "chosen": "a", "rejected": ""}, ["`rejected` is empty"]),
    ("same pair", {"prompt": "p", "chosen": "a", "rejected": "a"}, ["`chosen` and `rejected` are the same"]),
    ("same text, two forms", {"prompt": "p", "chosen": "a", "rejected": [bot("a")]}, ["are the same text"]),
    (
        "other prompt",
        {"prompt": "p", "chosen": [user("q"), bot("a")], "rejected": "b"},
        ["`chosen` has user, assis"],
    ),
    (
        "implicit, mixed",
        {"chosen": [user("q"), bot("a")], "rejected": "b"},
        ["`chosen` is a list", "without `prompt`"],
    ),
    ("implicit, numbers", {"chosen": 1, "rejected": 2}, ["`chosen` is a number"]),
    ("no shared text", {"chosen": "a", "rejected": "b"}, ["share no beginning", "add `prompt`"]),
    ("no prompt text", {"chosen": A + " a", "rejected": A + " b"}, ["`chosen` begins with the response"]),
    (
        "empty end",
        {"chosen": H + "q" + A + " ", "rejected": H + "q" + A + " b"},
        ["`chosen (after the", "is empty"],
    ),
    (
        "later turns",
        {"chosen": H + "q" + A + " a" + H + "r" + A + " s", "rejected": H + "q" + A + " b"},
        ["`chosen` goes on after its first response"],
    ),
    (
        "same after strip",
        {"chosen": H + "q" + A + " b ", "rejected": H + "q" + A + " b"},
        ["`chosen` and `rejected` are the same text"],
    ),
    (
        "no shared turn",
        {"chosen": [user("q"), bot("a")], "rejected": [user("r"), bot("b")]},
        ["share no prompt"],
    ),
    (
        "two turns differ",
        {"chosen": [user("q"), bot("a"), user("r"), bot("s")], "rejected": [user("q"), bot("b")]},
        ["`chosen` has 3 messages after the shared prompt"],
    ),
    ("nothing left", {"chosen": [user("q")], "rejected": [user("q"), bot("b")]}, ["`chosen` has 0 messages"]),
]
BAD_OTHERS: list[tuple[type[Row], str, Any, list[str]]] = [
    (Prompt, "no prompt", {"text": "t"}, ["`prompt` is missing", "`text`"]),
    (Prompt, "prompt a bool", {"prompt": True}, ["`prompt` is true or false"]),
    (Prompt, "empty turn", {"prompt": [user("")]}, ["`prompt[0].content` is empty"]),
    (Prompt, "a list", [1, 2], ["is not an object but a list"]),
    (Prompt, "a string", "p", ["is not an object but a string"]),
    (Prompt, "null", None, ["is not an object but null"]),
    (Text, "no text", {"prompt": "p"}, ["`text` is missing"]),
    (Text, "text a list", {"text": ["t"]}, ["`text` is a list"]),
    (Text, "blank", {"text": "\n"}, ["`text` is empty"]),
]
CASES = [
    *[pytest.param(Demonstration, row, parts, id=f"demonstration: {name}") for name, row, parts in BAD_DEMONSTRATIONS],
    *[pytest.param(Ranking, row, parts, id=f"ranking: {name}") for name, row, parts in BAD_RANKINGS],
    *[pytest.param(kind, row, parts, id=f"{kind.__name__}: {name}") for kind, name, row, parts in BAD_OTHERS],
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("kind", "row", "parts"), CASES)
def test_error_names_the_place_and_the_field(tmp_path: Path, kind: type[Row], row: Any, parts: list[str]) -> None:
    file = write(tmp_path / "rows.jsonl", [GOOD[kind], row])
    with pytest.raises(UserError) as caught:
        load(kind, file, KEY)
    message = str(caught.value)
    assert message.startswith(f"{KEY}: {file}, line 2: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("kind", "row", "parts"), CASES)
def test_skip_keeps_the_good_rows_and_lists_the_others(
    tmp_path: Path, kind: type[Row], row: Any, parts: list[str]
) -> None:
    file = write(tmp_path / "rows.jsonl", [GOOD[kind], row, GOOD[kind]])
    with pytest.warns(UserWarning, match="left out 1 bad rows of 3"):
        loaded = load(kind, file, KEY, on_bad_row="skip")
    assert [r.line for r in loaded.rows] == [1, 3]
    assert len(loaded.skipped) == 1
    assert parts[0] in loaded.skipped[0]
