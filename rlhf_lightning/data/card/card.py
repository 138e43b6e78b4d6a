"""The card of one or several splits: statistics, what they share, and what to be careful about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_lightning.data.card.cautions import cautions, few_rows, near_prompts, shared_prompts
from rlhf_lightning.data.card.counting import Summary
from rlhf_lightning.data.card.split import SplitStatistics
from rlhf_lightning.data.kinds import Row

CARD_FILE = "data_card.json"
NOTES = {
    "toxic_worded": "Texts with a word of a short English list (rlhf_lightning/data/card/toxic_words.json). Crude: it "
    "misses abuse in other words and counts a news report.",
    "languages": "Guessed from the prompt's script and stop words. Crude, above all for short texts.",
    "toxic_negatives": "Rankings that put a response with a word of the list below one without.",
    "few_rows": "Groups below 100 rows: the 95 % interval of a share reaches 10 points to either side, or more.",
}


class DataCard:
    """Collects splits as they are read, and can be written at any time after."""

    def __init__(self, prefix: str = "", toxic: frozenset[str] | None = None) -> None:
        """
        Args:
            prefix: Of split names in messages, e.g. "data.init_args.".
            toxic: Words that are counted as toxic; by default this project's list.
        """
        self._prefix, self._toxic = prefix, toxic
        self._open: dict[str, SplitStatistics] = {}
        self.splits: dict[str, Summary] = {}
        self.shared: dict[str, int] = {}
        self.warnings: list[str] = []

    def split(self, name: str, kind: type[Row]) -> SplitStatistics:
        """Statistics of a split, to add its rows to; made where it has none."""
        if name not in self._open:
            self._open[name] = SplitStatistics(kind, self._toxic)
        return self._open[name]

    def close(self, name: str, about: Mapping[str, Any]) -> list[str]:
        """A split is read.

        Args:
            name: The split.
            about: Where it came from: files, fingerprint, rows that were left out.

        Returns:
            What to warn of: a split that leaks, or training data that misleads.
        """
        statistics = self._open[name]
        self.splits[name] = dict(about) | statistics.summary()
        self.splits[name]["few_rows"] = few_rows(self.splits[name])
        found = [] if name == "val" else cautions(self._prefix + name, self.splits[name])
        if name == "val" and "train" in self._open:
            self.shared = {"train and val": self._open["train"].openings.shared_with(statistics.openings)}
            found += shared_prompts(self._prefix + name, self.shared["train and val"])
        # What is left of a split that is closed: the training prompts, for the split that is compared with them.
        for done in [n for n in self._open if n in self.splits and (n != "train" or "val" in self.splits)]:
            del self._open[done]
        self.warnings += found
        return found

    def near(self, summary: Mapping[str, Summary]) -> None:
        """Add the nearly equal prompts of splits, from `NearPrompts`."""
        for name, near in summary.items():
            self.splits[name]["near_duplicates"] = near
            across = near["of"].get("train", {}).get("prompts", 0)
            self.warnings += near_prompts(self._prefix + name, across) if name == "val" else []

    def as_dict(self) -> Summary:
        """What `data_card.json` holds."""
        return {
            "splits": self.splits,
            "shared_prompts": self.shared,
            "warnings": self.warnings,
            "notes": NOTES,
        }


def write_card(directory: Path, card: Summary) -> None:
    """Write `data_card.json` into a directory."""
    (directory / CARD_FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
