"""Prompts that are nearly the same, by MinHash over character 5-grams (Broder 1997) and a check of every candidate.

Letters and digits count, case, punctuation and spacing do not. Candidates agree in one of 20 bands of 6 minima; two
texts of similarity 0.8 are found with a probability of 0.997, of 0.9 with 1 - 1e-7. Each candidate is then compared by
the 256 smallest hashes of both, which is exact for texts of up to about 260 characters (beyond, the standard error is
0.025).
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LETTERS = re.compile(r"[^\W_]+")
_GRAM, _BANDS, _ROWS, _KEPT = 5, 20, 6, 256
_NEIGHBOURS = 20
"""Of texts that agree in a band, each is compared with so many before it: 10,000 of one template stay linear."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class NearDuplicate:
    """A text and one before it that is nearly the same."""

    text: int
    """Its number."""
    other: int
    similarity: float
    """Jaccard index of their 5-grams, in [threshold, 1]."""


class NearDuplicates:
    """Finds them among texts that are given one by one; about 1 kB is kept of each."""

    def __init__(self, threshold: float = 0.8) -> None:
        """
        Args:
            threshold: Least Jaccard index of the 5-grams, in (0, 1].
        """
        self.threshold = threshold
        self._sketches: list[NDArray[np.uint32]] = []
        self._bands = array("Q")
        draw = np.random.default_rng(0)
        self._factors = draw.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64) * 2 + 1
        self._shifts = draw.integers(0, 2**63, _BANDS * _ROWS, dtype=np.uint64)
        self._mix = draw.integers(0, 2**63, _ROWS, dtype=np.uint64) * 2 + 1

    def __len__(self) -> int:
        return len(self._sketches)

    def add(self, text: str) -> None:
        """Note a text; its number is that of texts before it."""
        hashes = gram_hashes(text)[:_KEPT]
        minima = ((hashes[:, None] * self._factors + self._shifts) >> np.uint64(32)).min(0)
        bands = (minima.reshape(_BANDS, _ROWS) * self._mix).sum(1, dtype=np.uint64)
        self._bands.frombytes(bands.tobytes())
        self._sketches.append((hashes >> np.uint64(32)).astype(np.uint32))

    def found(self) -> list[NearDuplicate]:
        """Every text that is nearly the same as one before it, with the most similar of those."""
        best: dict[int, NearDuplicate] = {}
        for pair in self._candidates():
            text, other = divmod(int(pair), len(self))
            similarity = self._similarity(text, other)
            if similarity >= self.threshold and (text not in best or similarity > best[text].similarity):
                best[text] = NearDuplicate(text, other, similarity)
        return [best[text] for text in sorted(best)]

    def _candidates(self) -> NDArray[np.int64]:
        pairs: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        bands = np.frombuffer(self._bands, dtype=np.uint64).reshape(-1, _BANDS)
        for band in bands.T:
            order = np.argsort(band, kind="stable")
            ordered = band[order]
            for step in range(1, _NEIGHBOURS + 1):
                same = np.flatnonzero(ordered[step:] == ordered[:-step])
                if not len(same):
                    break
                pairs.append(order[same + step] * len(self) + order[same])
        return np.unique(np.concatenate(pairs))

    def _similarity(self, text: int, other: int) -> float:
        a, b = self._sketches[text], self._sketches[other]
        union = np.union1d(a, b)
        if max(len(a), len(b)) == _KEPT:  # what is beyond the smallest hashes of one is unknown
            union = union[:_KEPT]
        both = np.intersect1d(a, b, assume_unique=True)
        return float(np.isin(both, union, assume_unique=True).sum() / len(union))


def gram_hashes(text: str) -> Hashes:
    """Hashes of the different character 5-grams of a text, ascending; of the whole where it is shorter."""
    normal = " ".join(_LETTERS.findall(text.lower())).ljust(_GRAM)
    codes = np.frombuffer(normal.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    length = len(codes) - _GRAM + 1
    mixed = np.zeros(length, dtype=np.uint64)
    for i in range(_GRAM):
        mixed = mixed * np.uint64(0x100000001B3) + codes[i : i + length]
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 1)):  # MurmurHash3's finaliser
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.unique(mixed)
