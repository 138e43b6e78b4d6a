"""Every benchmark can be imported: none of them runs in the default tests."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The peer's sides import the peer, which has an environment of its own.
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in sorted((ROOT / "benchmarks").rglob("*.py"))
    if not file.name.startswith("trl_") and not any(part.startswith(".venv") for part in file.parts)
]


def test_there_are_benchmarks() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_imports(name: str) -> None:
    importlib.import_module(name)
