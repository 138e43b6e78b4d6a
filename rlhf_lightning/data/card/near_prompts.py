"""Nearly equal prompts within a split and across splits; equal ones count once, as they are reported elsewhere."""

from __future__ import annotations

from collections import Counter

from rlhf_lightning.data.card.counting import Summary
from rlhf_lightning.data.card.near_duplicates import NearDuplicate, NearDuplicates

_SHOWN = 200
"""Characters of a prompt that are kept for the examples."""
_EXAMPLES = 5


class NearPrompts:
    """Prompts of all splits, in the order in which the splits are read."""

    def __init__(self, threshold: float, most: int) -> None:
        """
        Args:
            threshold: Similarity from which two prompts are nearly the same.
            most: Different prompts of a split that are looked at.
        """
        self._found = NearDuplicates(threshold)
        self._threshold, self._most = threshold, most
        self._seen: set[int] = set()
        self._texts: list[str] = []
        self._splits: list[str] = []
        self._looked_at: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def add(self, split: str, prompt: str) -> None:
        """Note a prompt; one that was there before, in any split, is left alone."""
        if (known := hash(prompt)) in self._seen:
            return
        if self._looked_at[split] >= self._most:
            self._left_out[split] += 1
            return
        self._seen.add(known)
        self._looked_at[split] += 1
        self._found.add(prompt)
        self._texts.append(prompt if len(prompt) <= _SHOWN else prompt[:_SHOWN] + "…")
        self._splits.append(split)

    def summary(self) -> dict[str, Summary]:
        """Of every split: prompts that are nearly the same as one before them, by the split of that one."""
        found: dict[tuple[str, str], list[NearDuplicate]] = {}
        for pair in self._found.found():
            found.setdefault((self._splits[pair.text], self._splits[pair.other]), []).append(pair)
        return {
            split: {
                "threshold": self._threshold,
                "looked_at": self._looked_at[split],
                "not_looked_at": self._left_out[split],
                "of": {other: self._group(pairs) for (own, other), pairs in found.items() if own == split},
            }
            for split in self._looked_at
        }

    def _group(self, pairs: list[NearDuplicate]) -> Summary:
        closest = sorted(pairs, key=lambda pair: -pair.similarity)[:_EXAMPLES]
        examples = [
            {"text": self._texts[p.text], "other": self._texts[p.other], "similarity": round(p.similarity, 3)}
            for p in closest
        ]
        return {"prompts": len(pairs), "examples": examples}
