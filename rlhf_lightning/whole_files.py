"""Files that appear whole or not at all: a kill or a full disk leaves what stood there before."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""How files end, beside their targets, that a killed process was writing."""


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that takes its place when the block ends without an error.

    Args:
        target: Its directory is made where it is missing.

    Raises:
        OSError: Writing failed; nothing is left of it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8 with the line ends that it has, and wait until it is on the disk.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any, indent: int = 1, ascii_only: bool = True) -> None:
    """Write JSON that any reader takes, as `write_whole` does.

    Raises:
        OSError: It cannot be written.
        ValueError: A number is not finite.
    """
    write_whole(path, json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=ascii_only) + "\n")
