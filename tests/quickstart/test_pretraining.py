"""Pretraining text that the base model makes up: what is kept of it, and what ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_lightning.quickstart.make_data import main, read_rows
from rlhf_lightning.quickstart.pretraining import UNWANTED, document, openers, pretraining_rows
from rlhf_lightning.quickstart.sampling import continue_texts
from rlhf_lightning.quickstart.topics import bank_topics, topic_named

DATA = Path("configs/quickstart/data")
LONG = " has many words that say little and go on and on until there are enough of them for a row" * 2


def test_openers_cover_every_topic_of_their_side_and_no_other() -> None:
    train, held_out = openers(False), openers(True)
    for rows, topics in ((train, bank_topics(False)), (held_out, bank_topics(True))):
        assert len({name for name, _ in rows}) == len(rows) == 12 * len(topics)
    assert not {name for name, _ in train} & {name for name, _ in held_out}
    assert openers(False) == train


def test_a_text_that_was_cut_off_ends_with_its_last_sentence() -> None:
    assert document("The sea", f"{LONG}. It ends here.", True) == f"The sea{LONG}. It ends here."
    assert document("The sea", f'{LONG}. "Is it?" It was cut', False) == f'The sea{LONG}. "Is it?"'
    assert document("The sea", LONG, False) is None, "no whole sentence"
    assert document("The sea", " is deep.", True) is None, "too short"
    assert document("The sea", f"{LONG}. Write to a@b.org.", True) is None
    for unfit in (
        "He was killed.",
        "God knows.",
        "The Army came.",
        "See scissors.com for it.",
        "Thus spoke Bruce Willis.",
    ):
        assert document("The sea", f"{LONG}. {unfit}", True) is None, unfit


def test_training_text_names_no_topic_that_is_held_out() -> None:
    begun = [("a", "The sea"), ("b", "A bee"), ("c", "The sun")]
    written = [(f"{LONG}.", True)] * 3
    rows = pretraining_rows(begun, written, [topic_named("bees")], limit=9)
    assert [row["id"] for row in rows] == ["text-a", "text-c"]
    assert len(pretraining_rows(begun, written, [], limit=2)) == 2


@pytest.mark.parametrize("name", ["pretraining", "pretraining_heldout"])
def test_what_ships(name: str) -> None:
    rows = read_rows(DATA / f"{name}.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) >= 70
    assert len({row["text"] for row in rows}) == len(rows)
    begun = dict(openers(name == "pretraining_heldout"))
    held_out = bank_topics(True)
    for row in rows:
        text = row["text"]
        assert set(row) == {"id", "text"}
        assert text.startswith(begun[row["id"].removeprefix("text-")].strip())
        assert len(text.split()) >= 30
        assert not UNWANTED.search(text)
        if name == "pretraining":
            assert not [t.name for t in held_out if t.mentioned_in(text)]
    assert sum((DATA / f"{n}.jsonl").stat().st_size for n in ("pretraining", "pretraining_heldout")) <= 300_000


def test_the_command_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def written(base: str, openers: list[str], seed: int) -> list[tuple[str, bool]]:
        asked.append((base, len(openers), seed))
        return [(f"{LONG}.", True) for _ in openers]

    monkeypatch.setattr("rlhf_lightning.quickstart.sampling.continue_texts", written)
    main(["pretraining", "--base", "some/model", "--out", str(tmp_path / "new")])
    assert [a[:2] for a in asked] == [("some/model", 12 * 66), ("some/model", 12 * 21)]
    assert asked[0][2] != asked[1][2], "held-out text has random numbers of its own"
    assert len(read_rows(tmp_path / "new" / "pretraining.jsonl")) == 360
    assert json.loads((tmp_path / "new" / "pretraining_heldout.jsonl").read_text().splitlines()[0])["text"]


def test_texts_depend_on_seed_and_place_alone() -> None:
    begun = ["The cat", "A dog and", "One day the"]
    once = continue_texts("embedded:tiny", begun, 3, max_tokens=6)
    assert once == continue_texts("embedded:tiny", begun, 3, max_tokens=6, batch_size=2)
    assert once != continue_texts("embedded:tiny", begun, 4, max_tokens=6)
    assert all(text and "<|" not in text for text, _ in once)
