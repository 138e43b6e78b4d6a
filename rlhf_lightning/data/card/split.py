"""The statistics of one split, row by row: what a stage can afford while it reads, and keeps in a few megabytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rlhf_lightning.data.card.counting import Lengths, Repeats, Summary, Tally
from rlhf_lightning.data.card.texts import language_of, toxic_words, words_of
from rlhf_lightning.data.kinds import Demonstration, Prompt, Ranking, Row, Text
from rlhf_lightning.data.openings import Openings
from rlhf_lightning.prompt_template import plain_text

KINDS: dict[str, type[Row]] = {
    "demonstrations": Demonstration,
    "rankings": Ranking,
    "prompts": Prompt,
    "pretraining": Text,
}
_MOST_CATEGORIES = 1_000
NO_CATEGORY = "(none)"


@dataclass
class CategoryCounts:
    """Rows of one category."""

    rows: int = 0
    flagged: int = 0
    """Rows with any flag."""
    toxic_worded: int = 0
    """Rows with a word of the list in any of their texts."""
    toxic_negatives: int = 0
    """Rankings that put a response with such a word below one without."""
    toxic_preferred: int = 0
    """Rankings that put one above a response without."""

    def add(self, flagged: bool, toxic: bool, negative: bool, preferred: bool) -> None:
        self.rows += 1
        self.flagged += flagged
        self.toxic_worded += toxic
        self.toxic_negatives += negative
        self.toxic_preferred += preferred


@dataclass
class _Ranked:
    """What only rankings have."""

    k: Tally = field(default_factory=Tally)
    pairs: int = 0
    tied: int = 0
    longer_wins: float = 0.0
    """Of two equally long responses each wins half."""

    def add(self, row: Ranking) -> None:
        self.k.add(str(len(row.responses)))
        for i, j in combinations(range(len(row.ranks)), 2):
            self.pairs += 1
            if row.ranks[i] == row.ranks[j]:
                self.tied += 1
                continue
            best, other = (i, j) if row.ranks[i] < row.ranks[j] else (j, i)
            a, b = len(row.responses[best]), len(row.responses[other])
            self.longer_wins += 0.5 if a == b else float(a > b)

    def summary(self) -> Summary:
        decided = self.pairs - self.tied
        return {
            "k": dict(sorted(self.k.summary().items(), key=lambda item: (len(item[0]), item[0]))),
            "pairs": self.pairs,
            "tied_pairs": self.tied,
            "longer_wins": round(self.longer_wins / decided, 4) if decided else None,
        }


class SplitStatistics:
    """Goes through the rows of one split once."""

    def __init__(self, kind: type[Row], toxic: frozenset[str] | None = None) -> None:
        """
        Args:
            kind: What its rows are.
            toxic: Words that are counted as toxic; by default this project's list.
        """
        self.kind = next(name for name, k in KINDS.items() if k is kind)
        self.openings = Openings()
        self._toxic_list = toxic_words() if toxic is None else toxic
        self._rows = 0
        self._repeats = Repeats()
        self._characters = {"prompt": Lengths(), "response": Lengths()}
        self._tokens = {"prompt": Lengths(), "response": Lengths()}
        self._ranked = _Ranked()
        self._about = {name: Tally() for name in ("source", "language", "flag", "labeler", "labeler_group")}
        self._categories: dict[str, CategoryCounts] = {}
        self._all = CategoryCounts()
        self._toxic_texts = {"prompt": 0, "response": 0}

    def add(self, row: Row, prompt_tokens: int | None = None, response_tokens: Sequence[int] = ()) -> None:
        """Note a row, and how many tokens its prompt and responses have, where that is known."""
        self._rows += 1
        prompt, responses = texts_of(row)
        self.openings.add(row)
        self._repeats.add(prompt, *responses, row.labeler or "")  # what two labelers judged is not a duplicate
        self._characters["prompt"].add(len(prompt))
        for text in responses:
            self._characters["response"].add(len(text))
        if prompt_tokens is not None:
            self._tokens["prompt"].add(prompt_tokens)
        for count in response_tokens:
            self._tokens["response"].add(count)
        if isinstance(row, Ranking):
            self._ranked.add(row)
        for name in ("source", "labeler", "labeler_group"):
            self._about[name].add(getattr(row, name))
        for flag in set(row.flags):
            self._about["flag"].add(flag)
        self._read(row, prompt, responses)

    def _read(self, row: Row, prompt: str, responses: Sequence[str]) -> None:
        words = words_of(prompt)
        self._about["language"].add(language_of(prompt, words))
        toxic_prompt = not words.isdisjoint(self._toxic_list)
        toxic = [not words_of(text).isdisjoint(self._toxic_list) for text in responses]
        self._toxic_texts["prompt"] += toxic_prompt
        self._toxic_texts["response"] += sum(toxic)
        negative = preferred = False
        if isinstance(row, Ranking) and any(toxic) and not all(toxic):
            clean_ranks = [rank for rank, bad in zip(row.ranks, toxic, strict=True) if not bad]
            toxic_ranks = [rank for rank, bad in zip(row.ranks, toxic, strict=True) if bad]
            negative = max(toxic_ranks) > min(clean_ranks)
            preferred = min(toxic_ranks) < max(clean_ranks)
        name = row.category or NO_CATEGORY
        if name not in self._categories and len(self._categories) >= _MOST_CATEGORIES:
            name = NO_CATEGORY
        for counts in (self._categories.setdefault(name, CategoryCounts()), self._all):
            counts.add(bool(row.flags), toxic_prompt or any(toxic), negative, preferred)

    def summary(self) -> Summary:
        """Everything about the split, ready for JSON."""
        ordered = sorted(self._categories.items(), key=lambda item: (-item[1].rows, item[0]))
        labelers = self._about["labeler"]
        summary: Summary = {
            "kind": self.kind,
            "rows": self._rows,
            "exact_duplicate_rows": self._repeats.repeated(),
            "different_prompts": self.openings.different(),
            "characters": self._described(self._characters),
            "tokens": self._described(self._tokens),
            "flags": self._about["flag"].summary(),
            "flagged_rows": self._all.flagged,
            "toxic_worded_rows": self._all.toxic_worded,
            "toxic_worded_prompts": self._toxic_texts["prompt"],
            "toxic_worded_responses": self._toxic_texts["response"],
            "sources": self._about["source"].summary(),
            "languages": self._about["language"].summary(),
            "categories": {name: vars(counts) for name, counts in ordered},
            "labelers": labelers.summary(),
            "labeler_groups": self._about["labeler_group"].summary(),
            "rows_without_labeler": labelers.missing,
        }
        if self.kind == "rankings":
            summary |= self._ranked.summary()
            summary["toxic_negatives"], summary["toxic_preferred"] = (
                self._all.toxic_negatives,
                self._all.toxic_preferred,
            )
        return summary

    def _described(self, lengths: dict[str, Lengths]) -> dict[str, Any]:
        names = {"prompt": "text"} if self.kind == "pretraining" else {}
        return {names.get(n, n): summary for n, found in lengths.items() if (summary := found.summary())}


def texts_of(row: Row) -> tuple[str, Sequence[str]]:
    """Prompt and responses of a row; earlier turns of a conversation belong to the prompt, pretraining text is one."""
    if isinstance(row, Ranking):
        return plain_text(row.prompt), row.responses
    if isinstance(row, Demonstration):
        return plain_text(row.prompt), (row.response,)
    if isinstance(row, Text):
        return row.text, ()
    assert isinstance(row, Prompt)
    return plain_text(row.prompt), ()
