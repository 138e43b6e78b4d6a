"""Counts and lengths of any number of rows in little memory."""

from __future__ import annotations

from array import array
from collections import Counter
from hashlib import blake2b
from typing import Any

import numpy as np

_MOST_NAMES = 10_000
"""Different values that are counted one by one; a field with more is not a grouping."""
_SHOWN = 200
OTHERS = "(others)"
Summary = dict[str, Any]
"""Part of a data card, ready for JSON."""


class Tally:
    """Rows by a value such as a category."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.missing = 0
        self.others = 0

    def add(self, value: str | None) -> None:
        if value is None:
            self.missing += 1
        elif value in self.counts or len(self.counts) < _MOST_NAMES:
            self.counts[value] += 1
        else:
            self.others += 1

    def summary(self) -> dict[str, int]:
        """The 200 most frequent values and their rows, most first; all other values under "(others)"."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        rest = self.others + sum(n for _, n in ordered[_SHOWN:])
        return dict(ordered[:_SHOWN]) | ({OTHERS: rest} if rest else {})


class Lengths:
    """Distribution of lengths; from 1,000 on they are kept to three digits, so memory is bounded."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0
        self._largest = 0

    def add(self, length: int) -> None:
        self._counts[_three_digits(length)] += 1
        self._total += length
        self._largest = max(self._largest, length)

    def summary(self) -> dict[str, float] | None:
        """Number, mean, smallest, 5 %, 50 % and 95 % points, largest and sum; None without any."""
        if not self._counts:
            return None
        values = np.array(sorted(self._counts))
        upto = np.cumsum([self._counts[int(v)] for v in values])
        n = int(upto[-1])
        at = {f"p{q}": int(values[np.searchsorted(upto, q * n / 100)]) for q in (5, 50, 95)}
        return {
            "count": n,
            "mean": round(self._total / n, 2),
            "min": int(values[0]),
            **at,
            "max": self._largest,
            "sum": self._total,
        }


def _three_digits(n: int) -> int:
    if n < 1_000:
        return n
    unit = 10 ** (len(str(n)) - 3)
    return int(n // unit * unit)


class Repeats:
    """How many things occurred before, from eight bytes of each: among 10^7, two share them with a chance of 3e-6."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, *texts: str) -> None:
        digest = blake2b(digest_size=8)
        for text in texts:
            digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
        self._digests.append(int.from_bytes(digest.digest(), "little"))

    def repeated(self) -> int:
        """Things beyond the first of each."""
        return len(self._digests) - len(np.unique(np.frombuffer(self._digests, dtype=np.uint64)))


def percent(part: float, whole: float) -> str:
    """A share for people.

    >>> percent(1, 3), percent(0, 3), percent(1, 10000)
    ('33 %', '0 %', '0.01 %')
    """
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %"
