"""Who is held out of what: groups, prompts kept apart, and the fold files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_lightning.crossvalidation.files import ranking_fields, write_rankings
from rlhf_lightning.crossvalidation.groups import Scanned, amounts, balanced_groups, make_folds, scan
from rlhf_lightning.data.kinds import Message, Ranking
from rlhf_lightning.data.loading import RowStream, load
from rlhf_lightning.errors import UserError


def scanned(rows: list[tuple[str, str]]) -> Scanned:
    units, prompts = zip(*rows, strict=True)
    return Scanned(np.array(units), np.array(prompts), np.ones(len(rows), dtype=int), "")


def random_rows(seed: int, prompts: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    return [(name, f"p{p}") for p in range(prompts) for name in "abcdef" if rng.random() < 0.4]


def test_groups_have_about_equal_data() -> None:
    rng = random.Random(0)
    data = {f"l{i:02d}": rng.randint(1, 1000) for i in range(40)}
    groups = balanced_groups(data, 5, "labeler")
    assert sorted(name for group in groups for name in group) == sorted(data)
    sizes = [sum(data[name] for name in group) for group in groups]
    assert max(sizes) - min(sizes) < 0.02 * sum(sizes)
    assert groups == balanced_groups(dict(reversed(data.items())), 5, "labeler")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_val", [False, True])
def test_no_prompt_and_no_held_out_labeler_is_trained_on(seed: int, with_val: bool) -> None:
    train = scanned(random_rows(seed, 60))
    val = scanned([(n, p.replace("p", "p5")) for n, p in random_rows(seed + 10, 12)]) if with_val else None
    source = val or train
    folds = make_folds([["a", "b"], ["c", "d"], ["e", "f"]], train, val, 0.25, seed)
    for fold in folds:
        assert not set(train.units[fold.train]) & set(fold.held_out)
        assert not set(train.prompts[fold.train]) & set(source.prompts[fold.evaluation])
        inside = np.isin(source.units, fold.held_out)
        left = set(source.prompts[inside]) - set(train.prompts[fold.train])
        assert set(source.prompts[inside & fold.evaluation]) == left  # all that may be used is used
    if val is not None:
        assert all(fold.evaluation.all() for fold in folds)
        assert set(train.prompts) & set(val.prompts)
    else:
        unseen = [set(train.prompts[f.evaluation & ~np.isin(train.units, f.held_out)]) for f in folds]
        assert len(set.union(*unseen)) == round(
            0.25 * len(set(train.prompts))
        )  # the same quarter of the prompts in every fold


def test_a_fold_with_nothing_to_judge_is_named() -> None:
    rows = [("a", "p1"), ("a", "p2"), ("b", "p1"), ("b", "p2")]
    with pytest.raises(
        UserError, match=r"data.init_args.train: fold 1, which holds out a, has no rankings to train on"
    ):
        make_folds([["a"], ["b"]], scanned(rows), None, 0.99, 0)
    val = scanned([("a", "p3")])
    with pytest.raises(UserError, match=r"data.init_args.val: fold 1.*no rankings of training groups to be evaluated"):
        make_folds([["a"], ["b"]], scanned(rows), val, 0.5, 0)
    with pytest.raises(UserError, match=r"data.init_args.val: fold 1.*no rankings of the held-out group"):
        make_folds([["b"], ["a"]], scanned(rows), val, 0.5, 0)


ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 3, 2], "labeler": 7, "ended": [True, False, True]},
    {"prompt": [{"role": "user", "content": "é"}], "chosen": "x", "rejected": "y", "ranks": "no ranks", "labeler": "l"},
    {"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y", "labeler": "m"},
    {
        "prompt": "p",
        "responses": ["a", "b"],
        "ranks": [1, 2],
        "labeler": "l",
        "labeler_group": "g",
        "category": "c",
        "flags": {"toxic": True, "old": False},
        "id": "i",
        "source": "s",
    },
]


def test_fold_files_say_what_the_rows_said(jsonl: Callable[..., str], tmp_path: Path) -> None:
    rows = load(Ranking, jsonl(ROWS), "data").rows
    write_rankings(rows, [(tmp_path / "all.jsonl", np.ones(4, bool)), (tmp_path / "last.jsonl", np.arange(4) == 3)])
    again = load(Ranking, str(tmp_path / "all.jsonl"), "data").rows

    def content(row: Ranking) -> dict[str, Any]:
        meta = {k: v for k, v in row.meta.items() if k != "ranks"}  # of the pair: nobody reads it
        return vars(row) | {"file": "", "line": 0, "meta": meta}

    assert [content(r) for r in again] == [content(r) for r in rows]
    assert again[1].prompt == (Message("user", "é"),)
    assert load(Ranking, str(tmp_path / "last.jsonl"), "data").rows[0].id == "i"
    json.dumps([ranking_fields(row) for row in rows])


def test_rows_without_a_labeler_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    good = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2], "labeler": "l"}
    path = str(tmp_path / "rows.jsonl")
    Path(path).write_text("".join(json.dumps(good | {"labeler": name}) + "\n" for name in ("l", None, "")))
    with pytest.raises(
        UserError, match=rf"data.init_args.train: 2 of 3 rows have no `labeler` \(the first: {path}:2\)"
    ):
        scan(RowStream(Ranking, path, "data.init_args.train"), "data.init_args.train", "labeler")


def test_pairs_of_all_sources_are_counted() -> None:
    one, other = scanned([("a", "p"), ("b", "p"), ("a", "q")]), scanned([("b", "r"), ("c", "r")])
    assert amounts(one, other) == {"a": 2, "b": 2, "c": 1}
