"""The table of mutations stays true to the source, and (slow) every mutation is noticed."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.mutation.mutation import ROOT, Mutation
from tests.mutation.mutations import MUTATIONS

NOT_MATHS = {
    "to",
    "state",
    "from_state",
    "__init__",
    "__post_init__",
    "token_counts",
    "packed",
    "unpacked",
    "__getitem__",
    "chunk_rows",
    "setup",
    "_tokenize",
    "_tokenize_demonstration",
    "_tokenize_labelled",  # tests/reward/test_slice_table.py, and the next two
    "eval_items",
    "collate_eval",
    "generate",
    "_weight",  # of quantized layers: tested where bitsandbytes is installed
    "_single_node",
    "_lean",
    "_numbers",
    "load_state_dict",
    "state_dict",
    "keep_few_products",
    "read_pretraining",  # tests/bad_inputs/test_pretraining.py
    "documents",
    "_base",
    "stacked",
    "__str__",
    "columns",  # how large a buffer is made
    "summary",  # a message
    "lengths",  # for the data card: tests/data/test_data_card.py
    "decode",  # makes a batch and lets it go: tests/rollouts/test_engines.py, and the next
    "forget_step",
    "step",  # of the lean decoder: only switches autocast off
}
"""Functions of the mutated files that only move, store or check things, and have tests of their own."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_mutation_applies_and_names_a_test(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    changed = mutation.mutated(source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    path, _, name = mutation.test.partition("::")
    assert f"def {name.rpartition('.')[2]}(" in (ROOT / path).read_text()


def test_names_are_unique_and_mistakes_too() -> None:
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
    assert len({(m.file, m.old, m.new) for m in MUTATIONS}) == len(MUTATIONS)
    assert sum(not m.equivalent for m in MUTATIONS) >= 150


@pytest.mark.parametrize("file", sorted({m.file for m in MUTATIONS}))
def test_every_function_has_a_mutation(file: str) -> None:
    source = (ROOT / file).read_text()
    untouched = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name not in NOT_MATHS:
            text = ast.get_source_segment(source, node) or ""
            if not any(m.file == file and m.old in text for m in MUTATIONS):
                untouched.append(node.name)
    assert not untouched


@pytest.mark.slow
def test_every_mutation_is_noticed() -> None:
    run = subprocess.run([sys.executable, "-m", "tests.mutation.run"], cwd=ROOT)
    assert run.returncode == 0
