"""One process at a time trains in a run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from rlhf_lightning.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where runs are not guarded
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


class RunLock:
    """Held by a process, not by a file that could stay behind: the system lets go of it when the process dies.

    A record lock, because children such as data loaders do not inherit it and cannot keep it after a kill.
    """

    def __init__(self, key: str = "trainer.default_root_dir", doing: str = "training") -> None:
        """
        Args:
            key: Configuration key of the directory, for messages.
            doing: What a process does that holds it.
        """
        self._key, self._doing = key, doing
        self._file: IO[str] | None = None

    def acquire(self, root: Path) -> None:
        """
        Raises:
            UserError: Another process is training there.
        """
        if fcntl is None or self._file is not None:
            return
        file = (root / LOCK_FILE).open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            file.close()
            raise UserError(
                f"{self._key}: another process ({pid}) is {self._doing} in {str(root)!r}. Wait for it, stop it, or "
                "choose another directory."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let others in."""
        if self._file is not None:
            self._file.close()
            self._file = None
