"""Limits, bad rows, fingerprints and splits."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.data import loading
from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, Ranking, Row, Text
from rlhf_lightning.data.loading import RowStream, load
from rlhf_lightning.data.openings import Openings
from rlhf_lightning.errors import UserError

KEY = "data.init_args.train"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def prompts(path: Path, *values: Any) -> str:
    """A file of prompts; a value that is bytes is written as it is."""
    parts = [v if isinstance(v, bytes) else json.dumps({"prompt": v}).encode() for v in values]
    path.write_bytes(b"\n".join(parts) + b"\n")
    return str(path)


@pytest.mark.parametrize(
    ("file", "kind", "count"),
    [
        ("demonstrations.jsonl", Demonstration, 103),
        ("rankings.jsonl.gz", Ranking, 245),
        ("comparisons.jsonl.gz", Ranking, 1361),
        ("prompts.jsonl", Prompt, 1357),
        ("pretrain.jsonl", Text, 612),
    ],
)
def test_real_files_load_whole(file: str, kind: Any, count: int) -> None:
    if not (SHARED / file).exists():
        pytest.skip(f"the development data is not on this machine: {SHARED / file}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load(kind, str(SHARED / file), KEY)
    assert len(loaded.rows) == count
    assert loaded.skipped == []


def test_real_rankings_keep_their_ranks() -> None:
    if not (SHARED / "rankings.jsonl.gz").exists():
        pytest.skip(f"the development data is not on this machine: {SHARED}")
    rows = load(Ranking, str(SHARED / "rankings.jsonl.gz"), KEY).rows
    assert {len(r.responses) for r in rows} == set(range(4, 10))
    assert all({"models", "p_win"} == set(r.meta) and r.labeler for r in rows)


def test_the_first_error_counts_the_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 2: `prompt` is empty.* \(and 2 more bad rows\)$"):
        load(Prompt, prompts(tmp_path / "a.jsonl", "p", "", "q", 3, b"{"), KEY)
    with pytest.raises(UserError, match=r"\(and 1 more bad row\)$"):
        load(Prompt, prompts(tmp_path / "a.jsonl", "", ""), KEY)
    with pytest.raises(UserError, match=r"delete the row\.$"):
        load(Prompt, prompts(tmp_path / "a.jsonl", "", "q"), KEY)


def test_counting_ahead_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_COUNT_AHEAD", 5)
    with pytest.raises(UserError, match=r"line 1.*\(and at least 5 more bad rows\)$"):
        load(Prompt, prompts(tmp_path / "a.jsonl", *[""] * 20), KEY)


def test_counting_ahead_does_not_hide_the_first_error(tmp_path: Path) -> None:
    first, second = prompts(tmp_path / "a.jsonl", "", ""), tmp_path / "b.jsonl.gz"
    second.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"a.jsonl, line 1.*\(and 1 more bad row\)$"):
        load(Prompt, [first, str(second)], KEY)


def test_skip_lists_broken_lines_in_order_and_warns_once(tmp_path: Path) -> None:
    file = prompts(tmp_path / "a.jsonl", b"{", "p", "", b"\xff", b"[]", "q", b"nul")
    with pytest.warns(UserWarning, match="left out 5") as caught:
        loaded = load(Prompt, file, KEY, on_bad_row="skip")
    assert [r.line for r in loaded.rows] == [2, 6]
    assert [m.split("line ")[1][0] for m in loaded.skipped] == ["1", "3", "4", "5", "7"]
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"{KEY}: left out 5 bad rows of 7. The first: {KEY}: {file}, line 1")


def test_skip_does_not_pass_over_damage_or_emptiness(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 2 rows can be used. The first: .*line 1: `prompt` is empty"):
        load(Prompt, prompts(tmp_path / "a.jsonl", "", 3), KEY, on_bad_row="skip")
    (tmp_path / "b.jsonl.gz").write_bytes(b"junk")
    with pytest.raises(UserError, match="gzip"):
        load(Prompt, [prompts(tmp_path / "a.jsonl", "p"), str(tmp_path / "b.jsonl.gz")], KEY, on_bad_row="skip")


def test_limit(tmp_path: Path) -> None:
    file = prompts(tmp_path / "a.jsonl", "p", "q", "", "r")
    assert [r.prompt for r in load(Prompt, file, KEY, limit=2).rows] == ["p", "q"]
    with pytest.warns(UserWarning, match="left out 1 bad rows of 4"):
        assert len(load(Prompt, file, KEY, "skip", limit=3).rows) == 3
    with pytest.raises(UserError, match=r"^data.init_args.limit: is 0"):
        load(Prompt, file, KEY, limit=0)


def test_fingerprint_follows_content_and_order_only(tmp_path: Path) -> None:
    def fingerprint(name: str, *values: Any) -> str:
        return load(Prompt, prompts(tmp_path / name, *values), KEY).fingerprint

    first = fingerprint("a.jsonl", "p", "q")
    assert len(first) == 64
    assert fingerprint("b.jsonl", "p", b"", "q") == first  # another name and other lines
    assert fingerprint("a.jsonl", "q", "p") != first
    assert fingerprint("a.jsonl", "p") != first
    assert fingerprint("a.jsonl", "p", b'{"prompt": "q", "id": 1}') != first
    chat = b'{"prompt": [{"role": "user", "content": "q"}], "odd": "\\ud800"}'
    assert fingerprint("a.jsonl", "p", chat) != first


def test_shared_prompts() -> None:
    def shared_prompts(train: list[Row], val: list[Row]) -> int:
        ours, theirs = Openings(), Openings()
        for row in train:
            ours.add(row)
        for row in val:
            theirs.add(row)
        return ours.shared_with(theirs)

    user, bot = Message("user", "p"), Message("assistant", "a")
    train: list[Row] = [Prompt("p"), Prompt("q"), Prompt("q")]
    assert shared_prompts(train, [Prompt("r"), Prompt("P")]) == 0
    assert shared_prompts(train, [Prompt(" q\n"), Prompt("r")]) == 1
    assert shared_prompts(train, [Prompt("q"), Prompt("q")]) == 1
    assert shared_prompts(train, [Ranking((user,), ("a", "b"), (1, 2)), Prompt("q")]) == 2
    assert shared_prompts(train, [Demonstration((user, bot, Message("user", "z"), bot))]) == 1
    assert shared_prompts([Text("t")], [Text("t"), Text("u")]) == 1


def test_the_fingerprint_of_a_row_never_changes(tmp_path: Path) -> None:
    """Artefacts remember fingerprints, so another way of reading must give the same ones."""
    file = prompts(tmp_path / "a.jsonl", "é", [{"role": "user", "content": "q"}])
    assert load(Prompt, file, KEY).fingerprint == "d2baf97777ae0086fce89f6cfb2d97a890398487a25ef9b1d58a725660cd6b1d"


def test_only_the_first_messages_are_kept(tmp_path: Path) -> None:
    file = prompts(tmp_path / "a.jsonl", "p", *[""] * 150)
    stream = RowStream(Prompt, file, KEY, on_bad_row="skip")
    with pytest.warns(UserWarning, match="left out 150 bad rows of 151"):
        assert [row.prompt for row in stream] == ["p"]
    assert (stream.rows, stream.skipped, len(stream.messages)) == (1, 150, 100)
