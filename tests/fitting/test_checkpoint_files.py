"""Checkpoint files: whole or not at all, damaged ones recognised and passed over, nothing executed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.cli import main
from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.checkpoint_files import AtomicCheckpointIO, damage, newest_intact
from tests.conftest import TinyRuns

STATE = {"weights": torch.arange(20000.0), "step": 3}


def write(path: Path, age: int = 0) -> Path:
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    stamp = 1_700_000_000 - age
    os.utime(path, (stamp, stamp))
    return path


def flip_byte(file: Path, where: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 0xFF
    file.write_bytes(content)


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "deep" / "a.ckpt")
    assert damage(file) is None
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(file)["weights"], STATE["weights"])
    assert [f.name for f in file.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_cut_off_file_is_recognised(tmp_path: Path, keep: float) -> None:
    file = write(tmp_path / "a.ckpt")
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    assert damage(file) is not None
    with pytest.raises(UserError, match=r"--ckpt_path: .*a\.ckpt cannot be used"):
        AtomicCheckpointIO().load_checkpoint(file)


@pytest.mark.parametrize("where", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_byte_is_recognised(tmp_path: Path, where: float) -> None:
    file = write(tmp_path / "a.ckpt")
    flip_byte(file, where)
    assert damage(file) is not None


def test_the_newest_intact_one_is_taken_and_the_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "epoch=1-step=8.ckpt", age=20)
    write(tmp_path / "epoch=0-step=4.ckpt", age=30)
    torn = write(tmp_path / "last.ckpt", age=10)
    torn.write_bytes(torn.read_bytes()[:1000])
    assert newest_intact(tmp_path) == good
    said = capsys.readouterr().out
    assert "last.ckpt cannot be used: it is cut off" in said
    assert "going on from epoch=1-step=8.ckpt" in said


def test_the_furthest_one_is_taken_whatever_a_copy_did_to_the_times(tmp_path: Path) -> None:
    def at(name: str, age: int, **position: int) -> Path:
        stands = {"epoch": 1, "batches": 0, "steps": 6, "step_ended": True, "validated": True} | position
        state = STATE | {"loops": {"fit_loop": {"state_dict": {"position": stands}}}}
        AtomicCheckpointIO().save_checkpoint(state, tmp_path / name)
        os.utime(tmp_path / name, (1_700_000_000 - age, 1_700_000_000 - age))
        return tmp_path / name

    at("young.ckpt", age=0)
    further = at("epoch.ckpt", age=60, epoch=2)
    assert newest_intact(tmp_path) == further
    further = at("batch.ckpt", age=70, epoch=2, batches=1, steps=7)
    assert newest_intact(tmp_path) == further
    at("before validation.ckpt", age=50, epoch=2, batches=1, steps=7, validated=False)
    assert newest_intact(tmp_path) == further
    further = at("same.ckpt", age=10, epoch=2, batches=1, steps=7)
    assert newest_intact(tmp_path) == further


def test_no_checkpoint_is_not_an_error_but_only_damaged_ones_are(tmp_path: Path) -> None:
    assert newest_intact(tmp_path) is None
    write(tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="it is empty, and no other is left"):
        newest_intact(tmp_path)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = write(tmp_path / "a.ckpt")
    before = file.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(UserError, match=r"No space left on device.*--ckpt_path last"):
        AtomicCheckpointIO().save_checkpoint({"other": 1}, file)
    assert file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["a.ckpt"]


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_pickled_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    with pytest.raises(UserError, match="could not be read again"):
        AtomicCheckpointIO().save_checkpoint({"callback": Trap(sprung)}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []
    torch.save({"callback": Trap(sprung)}, tmp_path / "b.ckpt")
    with pytest.raises(UserError, match="pickled objects"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "b.ckpt", weights_only=False)
    assert not sprung.exists()


def unfinished(tiny: TinyRuns, name: str) -> Path:
    """A PPO run of two iterations whose artefact was not written."""
    run = tiny.run("ppo", name, "--trainer.max_epochs", "2")
    shutil.rmtree(run / "final")
    return run


def test_a_run_goes_on_from_the_checkpoint_before_a_torn_one(
    tiny: TinyRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(tiny, "torn")
    newest = run / "lightning" / "epoch=1-step=8.ckpt"
    for file in (newest, run / "lightning" / "last.ckpt"):
        file.write_bytes(file.read_bytes()[:-5000])
    assert main(tiny.args("ppo", "torn", "--ckpt_path", "last")) == 0
    assert "going on from epoch=0-step=4.ckpt" in capsys.readouterr().out
    assert_same_weights(tiny.root / "ppo", run)


def test_a_checkpoint_directory_that_is_gone_is_made_again(tiny: TinyRuns, tmp_path: Path) -> None:
    file = write(tmp_path / "lightning" / "a.ckpt")
    shutil.rmtree(file.parent)
    write(file)
    assert damage(file) is None


@pytest.mark.parametrize("name", ["lightning/nowhere.ckpt", "config.yaml"])
def test_a_checkpoint_that_is_none_is_named(tiny: TinyRuns, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(tiny.args("ppo", "fresh", "--ckpt_path", str(tiny.root / "ppo" / name))) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert name in error[0]
    assert "--ckpt_path last" in error[0]


def assert_same_weights(one: Path, other: Path) -> None:
    from safetensors.torch import load_file

    name = "final/adapter_model.safetensors"
    a, b = load_file(one / name), load_file(other / name)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
