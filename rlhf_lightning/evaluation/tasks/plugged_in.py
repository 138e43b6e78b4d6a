"""Calling what a user plugs in (scorers, judges, detectors), and naming what it did wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_lightning.errors import UserError


def numbers_from(
    function: Callable[..., Any], key: str, what: str, *texts: Sequence[str], low: float = 0.0, high: float = 1.0
) -> list[float]:
    """One number for each text, from a function of one or several lists of texts.

    Args:
        function: What was plugged in.
        key: Configuration key to blame.
        what: What a number is, for messages: "a toxicity".
        texts: Lists of equal length; the last one is shown in messages.
        low: The smallest number allowed.
        high: The largest.

    Raises:
        UserError: It raised, or did not return a finite number within the bounds for each.
    """
    values = _call(function, key, texts)
    found = []
    for i, value in enumerate(values):
        value = value.item() if getattr(value, "ndim", None) == 0 else value
        if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise UserError(
                f"{key}: {_name(function)} returned {value!r:.60} for {texts[-1][i]!r:.80}; {what} is a number "
                f"from {low:g} to {high:g}."
            )
        found.append(float(value))
    return found


def pairs_from(function: Callable[..., Any], key: str, *lists: Sequence[Any]) -> list[tuple[bool, bool]]:
    """Two truth values for each row, from a function of several lists.

    Raises:
        UserError: It raised, or returned something else.
    """
    found = []
    for i, value in enumerate(_call(function, key, lists)):
        if not isinstance(value, Sequence) or len(value) != 2 or any(v not in (True, False) for v in value):
            raise UserError(
                f"{key}: {_name(function)} returned {value!r:.60} for {lists[-1][i]!r:.80}; it must return "
                "(truthful, informative), both true or false."
            )
        found.append((bool(value[0]), bool(value[1])))
    return found


def _call(function: Callable[..., Any], key: str, lists: Sequence[Sequence[Any]]) -> Sequence[Any]:
    count = len(lists[0])
    try:
        returned = function(*(list(x) for x in lists))
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{key}: {_name(function)} failed with {reason:.200} on {count} texts, the first {lists[-1][0]!r:.80}. "
            "What was finished before is kept; correct it and start again."
        ) from error
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise UserError(f"{key}: {_name(function)} returned {type(returned).__name__}, not a list of {count} results.")
    if len(values) != count:
        raise UserError(f"{key}: {_name(function)} returned {len(values)} results for {count} texts.")
    return values


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
