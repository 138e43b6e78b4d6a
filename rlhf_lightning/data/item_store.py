"""Tokenised rows on disk, so that the size of a data file does not decide how much memory a run needs."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from multiprocessing.reduction import DupFd
from typing import IO, Any, Generic, Protocol, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.errors import UserError

_BUFFER = 2**20
"""Bytes written to disk at a time."""


class Storable(Protocol):
    """An item that can be written as bytes and made from them again."""

    def packed(self) -> bytes: ...

    @classmethod
    def unpacked(cls, data: bytes) -> Self: ...


Item = TypeVar("Item", bound=Storable)


class ItemStore(Sequence[Item]):
    """Items in a temporary file without a name: each is read when it is asked for, and only their places are kept.

    The file is in $TMPDIR (else /tmp) and goes away with the last process that has it open, also after a kill.
    Loader processes share it, forked or spawned. Reads go past the page tables (`pread`, no memory map), so
    what has been read once does not count as memory of the run.
    """

    def __init__(self, kind: type[Item], items: Iterable[Item]) -> None:
        """
        Args:
            kind: Class of all items.
            items: Consumed one at a time; what it raises comes through.

        Raises:
            UserError: No room for the file.
        """
        self._kind = kind
        ends = array("q", [0])
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(buffering=_BUFFER, prefix="rlhf-lightning-")  # noqa: SIM115
        except OSError as error:
            raise _no_room(error) from error
        for item in items:
            ends.append(ends[-1] + self._write(item.packed()))
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        self._ends: NDArray[np.int64] = np.frombuffer(ends, dtype=np.int64)

    def _write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            raise _no_room(error) from error

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each packed item, [N], without reading any."""
        return np.diff(self._ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        start, end = int(self._ends[row]), int(self._ends[row + 1])
        return self._kind.unpacked(os.pread(self._file.fileno(), end - start, start))

    def __getstate__(self) -> dict[str, Any]:
        """For spawned loader processes, which get the open file instead of a copy."""
        return {"_kind": self._kind, "_ends": self._ends, "_file": DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _file=os.fdopen(state["_file"].detach(), "rb"))


class Numbered(Generic[Item]):
    """Items with their numbers, for a loader whose batches have to say which rows they are."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[int, Item]:
        return row, self.items[row]


def pack_integers(*parts: Sequence[int]) -> bytes:
    """Integers in [-2^31, 2^31), four bytes each, one part after the other.

    >>> unpack_integers(pack_integers([1, 2], [], [-3]))
    [1, 2, -3]
    """
    return b"".join(array("i", part).tobytes() for part in parts)


def unpack_integers(data: bytes) -> list[int]:
    """What `pack_integers` packed, as one list."""
    return array("i", data).tolist()


def _no_room(error: OSError) -> UserError:
    return UserError(
        f"Cannot keep the tokenised rows in {tempfile.gettempdir()} ({error.strerror or error}). They take about four "
        "bytes a token; set the environment variable TMPDIR to a directory on a disk with more room."
    )
