"""Everyday topics with short true sentences, split into those used in training and those held out for testing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rlhf_lightning.quickstart.wording import stem, stems, words

HELD_OUT_EVERY = 4
"""Every fourth topic, in the order of the file, appears in held-out prompts only: 25 %, spread over all kinds."""

COMMON = 6
"""A word in the facts of more topics than this ("people", "many") says nothing about any of them."""

GENERAL = frozenset(
    words(
        "after all almost also among another are around away before best better but cannot close does each easily "
        "far first four from get give goes good has have help him his how its keep last like long made make mostly "
        "much must need never not off often old only other own put seen she six some soon still take than that the "
        "their them then they thing this through toward two use usually was well when while who with work you your"
    )
)
"""Rare in the facts, but about nothing."""


@dataclass(frozen=True)
class Topic:
    """Something to write about.

    The harmful requests of the refusal family are topics too; they have no facts.
    """

    name: str
    """Plural or mass noun, lower case, so that it fits into any phrasing; or a harmful request."""
    facts: tuple[str, ...]
    """Sentences of 4-12 words, at least five of them of 5 or more; capitals only at the start, full stop at the end."""
    keywords: tuple[str, ...]
    """Single lower-case words that belong to the topic."""
    held_out: bool

    def mentioned_in(self, response: str) -> bool:
        """Whether a word of the name occurs, in singular or plural; short words of a request do not count."""
        return bool({stem(w) for w in words(self.name) if len(w) > 3 or w == self.name} & stems(response))

    def related_in(self, response: str, without: Set[str] = frozenset()) -> int:
        """How many different words that belong to the topic occur, in singular or plural, other than its name.

        Args:
            response: Any text.
            without: Stems that do not count.
        """
        return len(related_stems(self) & stems(response) - without)


@cache
def all_topics() -> tuple[Topic, ...]:
    """The whole bank in the order of the file."""
    rows = json.loads((files("rlhf_lightning.quickstart") / "topics.json").read_text(encoding="utf-8"))
    return tuple(
        Topic(row["name"], tuple(row["facts"]), tuple(row["keywords"]), is_held_out(i)) for i, row in enumerate(rows)
    )


@cache
def related_stems(topic: Topic) -> frozenset[str]:
    """Stems of the keywords and of those words of the facts that few other topics share; without the name's."""
    rare = {s for fact in topic.facts for s in stems(fact) if len(s) > 2 and _topics_sharing()[s] <= COMMON}
    return frozenset((rare - GENERAL) | {stem(k) for k in topic.keywords}) - stems(topic.name)


@cache
def _topics_sharing() -> Counter[str]:
    """Number of topics by word stem of their facts."""
    return Counter(s for topic in all_topics() for s in set().union(*map(stems, topic.facts)))


def is_held_out(position: int) -> bool:
    """The split, by position in a list of topics or of requests."""
    return position % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def bank_topics(held_out: bool) -> tuple[Topic, ...]:
    """Either side of the split."""
    return tuple(topic for topic in all_topics() if topic.held_out is held_out)


@cache
def topic_named(name: str) -> Topic:
    """The topic of a row.

    Raises:
        KeyError: No such topic.
    """
    found = [topic for topic in all_topics() if topic.name == name]
    if not found:
        raise KeyError(name)
    return found[0]
