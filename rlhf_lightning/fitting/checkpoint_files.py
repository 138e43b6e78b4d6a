"""Checkpoint files: written whole or not at all, checked before they are used, read without running code."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from rlhf_lightning import whole_files
from rlhf_lightning.errors import UserError

SUFFIX = ".ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin of every stage; local files only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint beside `path` and rename it when it is complete, on disk, and can be read again.

        Raises:
            UserError: It cannot be written (the disk is full, the directory is read-only), or holds something
                that `weights_only=True` would refuse to read.
        """
        target = Path(path)
        with replacing(target) as temporary:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            try:
                torch.load(temporary, weights_only=True, mmap=True, map_location="cpu")
            except UnpicklingError as error:
                raise UserError(
                    f"{target} was not written, because it could not be read again: {str(error).splitlines()[0]} "
                    "A callback or registered state must give plain Python values and tensors only."
                ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; `weights_only` is always True.

        Raises:
            UserError: There is none, it is damaged, or it holds pickled objects.
        """
        file = Path(path)
        if reason := damage(file):
            raise UserError(
                f"--ckpt_path: {file} cannot be used: {reason}. `--ckpt_path last` takes the newest intact."
            )
        try:
            loaded: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        except UnpicklingError as error:
            raise UserError(
                f"--ckpt_path: {file} holds pickled objects, which could run code when read; it was not read."
            ) from error
        return loaded


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `target` when the block ends without an error.

    Raises:
        UserError: Writing failed; what stood at `target` before still does.
    """
    try:
        with whole_files.replacing(target) as temporary:
            yield temporary
        _sync(target.parent)
    except OSError as error:
        raise UserError(
            f"Cannot write {target}: {error.strerror}. Checkpoints written before are intact; make room or set "
            "trainer.default_root_dir elsewhere, then start the same command with `--ckpt_path last`."
        ) from error


def copy_checkpoint(source: Path, target: Path) -> None:
    """A second name for a checkpoint; a copy where the file system has no links.

    Raises:
        UserError: It cannot be written.
    """
    import shutil

    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _sync(directory: Path) -> None:
    """Make a rename survive a loss of power, where directories can be opened (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(file: Path) -> str | None:
    """Why a checkpoint file cannot be used, or None: its archive is complete and every checksum is right."""
    if not file.is_file():
        return "there is no such file"
    if file.stat().st_size == 0:
        return "it is empty"
    try:
        with zipfile.ZipFile(file) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        return f"it is cut off or not a checkpoint ({error})"
    return f"it is damaged (checksum of {wrong})" if wrong else None


def newest_intact(directory: Path) -> Path | None:
    """The furthest checkpoint of a directory that is not damaged; says which were passed over, and why."""
    files = [f for f in directory.glob(f"*{SUFFIX}") if not f.name.startswith(".")]
    passed: list[str] = []
    for file in sorted(files, key=lambda f: (_progress(f), f.stat().st_mtime_ns, f.name), reverse=True):
        reason = damage(file)
        if reason is None:
            for line in passed:
                print(f"{line}; going on from {file.name}.")
            return file
        passed.append(f"The checkpoint {file} cannot be used: {reason}")
    if passed:
        raise UserError(f"--ckpt_path: {passed[0]}, and no other is left in {directory}. Start again without it.")
    return None


def _progress(file: Path) -> tuple[float, ...]:
    """How far a run was when it wrote a checkpoint: copying may have given the files any order of times.

    What cannot be read comes first, so that it is named.
    """
    try:  # mmap: the tensors are not read
        content = torch.load(file, weights_only=True, map_location="meta", mmap=True)
        at = content["loops"]["fit_loop"]["state_dict"]["position"]
        return at["epoch"], at["batches"], at["steps"], at["step_ended"], at["validated"]
    except (KeyError, TypeError):
        return (-1.0,)
    except Exception:  # zipfile's, pickle's, torch's: `damage` says what it is
        return (float("inf"),)


def remove_partial(directory: Path) -> None:
    """Remove what a killed process was writing."""
    for file in directory.glob(f".*{whole_files.PARTIAL}"):
        file.unlink(missing_ok=True)
