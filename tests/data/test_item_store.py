"""Tokenised rows come back from disk as they were, in this process and in loader processes of both kinds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from rlhf_lightning.data.item_store import ItemStore
from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.prompts import PromptItem
from rlhf_lightning.reward.data import RankedPrompt
from rlhf_lightning.sft.packing import SFTExample, token_counts

ids = st.lists(st.integers(0, 2**31 - 1), max_size=6)
examples = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), max_size=6).map(
    lambda pairs: SFTExample([t for t, _ in pairs], [flag for _, flag in pairs])
)
rankings = st.lists(st.tuples(ids, st.integers(1, 9)), max_size=9).flatmap(
    lambda pairs: st.builds(RankedPrompt, ids, st.just([r for r, _ in pairs]), st.just([n for _, n in pairs]))
)
prompts = st.builds(PromptItem, ids, st.text())


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.lists(examples), st.lists(rankings), st.lists(prompts)))
def test_items_come_back_as_they_were(items: list[Any]) -> None:
    store = ItemStore(type(items[0]) if items else SFTExample, iter(items))
    assert list(store) == items
    assert store[1:] == items[1:]
    assert len(store) == len(items)
    if items:
        assert store[-1] == items[-1]
    with pytest.raises(IndexError):
        store[len(items)]


def test_token_counts_need_no_reading() -> None:
    store = ItemStore(SFTExample, [SFTExample([5] * n, [True] * n) for n in (3, 0, 7)])
    assert token_counts(store).tolist() == [3, 0, 7]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_share_the_store(method: str) -> None:
    items = [PromptItem([n], f"é{n}") for n in range(5)]
    loader: Any = DataLoader(
        ItemStore(PromptItem, items),  # type: ignore[arg-type]
        batch_size=2,
        collate_fn=list,
        num_workers=2,
        multiprocessing_context=method,
    )
    for _ in range(2):
        assert [item for batch in loader for item in batch] == items


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = ItemStore(SFTExample, [SFTExample([1], [True])])
    assert list(tmp_path.iterdir()) == []
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    del store
    if descriptors is not None:
        assert len(os.listdir("/proc/self/fd")) == descriptors - 1


def test_no_room_says_where_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"Cannot keep the tokenised rows in .*missing.*TMPDIR"):
        ItemStore(SFTExample, [])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b"))  # noqa: SIM115
    with pytest.raises(UserError, match=r"No space left on device.*TMPDIR"):
        ItemStore(SFTExample, [SFTExample([1], [True])])


def test_rows_are_consumed_one_at_a_time() -> None:
    def rows() -> Iterator[SFTExample]:
        yield SFTExample([1], [True])
        raise UserError("row 2 is bad")

    with pytest.raises(UserError, match="row 2"):
        ItemStore(SFTExample, rows())
