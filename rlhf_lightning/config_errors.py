"""Turns a parser's report into one line that names the key."""

from __future__ import annotations

import re


def explain(message: str) -> str:
    """The one line of a jsonargparse message that says what is wrong, with the key it is about.

    Args:
        message: The whole message; unions of types make it long, one paragraph for each type tried.
    """
    return re.sub(r"\s*\n\s*", " ", message.strip())
