"""The tiny configurations still do what was written down, step by step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden.trajectories import HERE, LENGTH, describe, run

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Other processors add in another order."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    old = os.getcwd()
    os.chdir(HERE.parent.parent)
    yield tmp_path_factory.mktemp("golden")
    os.chdir(old)


@pytest.mark.parametrize("stage", LENGTH)
def test_twenty_steps_are_as_recorded(directory: Path, stage: str) -> None:
    recorded = json.loads((HERE / f"{stage}.json").read_text())
    found = describe(run(stage, directory))
    assert found["scalars"].keys() == recorded["scalars"].keys()
    for tag, curve in recorded["scalars"].items():
        assert_close(found["scalars"][tag], curve, f"{tag}, recorded with {recorded['versions']}")
    assert_close(found["norms"], recorded["norms"], "norms of the final tensors")


def assert_close(found: dict[str, Any], recorded: dict[str, Any], what: str) -> None:
    assert found.keys() == recorded.keys(), what
    assert found == pytest.approx(recorded, rel=RELATIVE, abs=ABSOLUTE), what


def test_there_are_twenty_steps() -> None:
    for stage in ("sft", "reward"):
        assert len(json.loads((HERE / f"{stage}.json").read_text())["scalars"]["train/loss"]) == 20
    assert max(map(int, json.loads((HERE / "ppo.json").read_text())["scalars"]["rollout/kl"])) == 19
