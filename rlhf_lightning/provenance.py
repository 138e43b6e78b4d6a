"""Which code made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit(*results: str) -> str:
    """The commit that is checked out, with "+" where files differ from it; "unknown" outside a checkout.

    Args:
        results: Directories of the checkout, from its root, whose files do not count: what is written there is no code.
    """
    root = Path(__file__).parent
    code = [":/", *(f":(top,exclude){directory}" for directory in results)]
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno", "--", *code], cwd=root, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") or "unknown"
