"""Places that cannot be written or hold something else: run directories and the cache."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from rlhf_lightning.models.sources import resolve
from tests.bad_inputs.refusal import EARLIER, Refusal, contents
from tests.conftest import TinyRuns

ROOT = "trainer.default_root_dir"
CACHE = "RLHF_LIGHTNING_CACHE"


def test_a_finished_run_is_kept(refused: Refusal) -> None:
    args = refused.tiny.args("sft", "refused")
    message = refused("sft", args=args, parts=[ROOT, "finished run", "`--ckpt_path last`", "`--overwrite true`"])
    assert str(refused.tiny.root / "refused") in message


def test_a_run_directory_that_is_a_file(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for name in ("run", "run/below"):
        refused("sft", f"--{ROOT}", str(tmp_path / name), parts=[ROOT, name, "Choose another directory"])
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_directory_that_cannot_be_written(refused: Refusal) -> None:
    refused("sft", f"--{ROOT}", "/proc/run", parts=[ROOT, "cannot write", "'/proc/run'", "Choose another directory"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_directory_without_permission(refused: Refusal, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused("sft", f"--{ROOT}", str(tmp_path / "run"), parts=[ROOT, "Permission denied", "Choose another"])
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/cache"])
def test_a_cache_that_cannot_be_written(
    refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    cache = tmp_path / place  # an absolute place stays as it is
    monkeypatch.setenv(CACHE, str(cache))
    refused("sft", parts=["cache directory", str(cache), f"Set ${CACHE}"])


def test_a_damaged_model_in_the_cache(refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(resolve("embedded:tiny"), tmp_path / "tiny")
    monkeypatch.setenv(CACHE, str(tmp_path))
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"")
    refused("sft", parts=["model.init_args.base_model", str(tmp_path / "tiny"), "Delete that directory"])


def test_a_model_that_is_not_whole_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"left over")
    assert json.loads((Path(resolve("embedded:tiny")) / "config.json").read_text())["num_hidden_layers"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_only_training_writes_the_configuration(tiny: TinyRuns, refused: Refusal) -> None:
    """Evaluating a finished run leaves the configuration it was trained with."""
    from rlhf_lightning.cli import main

    run = tiny.root / "refused"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    (run / "config.yaml").write_text(EARLIER["config.yaml"])
    assert main(["validate", *tiny.args("sft", "refused")[1:]]) == 0
    assert contents(run) == {"config.yaml": EARLIER["config.yaml"]}
