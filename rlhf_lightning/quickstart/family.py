"""What an instruction family is: phrasings, parameters, a graded check, and a writer of demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rlhf_lightning.quickstart.topics import Topic, bank_topics
from rlhf_lightning.quickstart.wording import words

Params = Mapping[str, Any]
"""What a phrasing leaves open besides the topic; values are JSON scalars or lists of them."""


def no_params(topic: Topic, rng: Random) -> dict[str, Any]:
    """For families without parameters."""
    del topic, rng
    return {}


@dataclass(frozen=True)
class Family:
    """One kind of instruction, verified by a program."""

    name: str
    phrasings: tuple[str, ...]
    """Templates of a prompt with {topic} and the parameters."""
    grade: Callable[[str, Params], float]
    """Closeness of a response that has at least `min_words` words; 1 when satisfied."""
    write: Callable[[Topic, Params, Random], str]
    """A demonstration that satisfies the instruction, from the topic's facts."""
    draw: Callable[[Topic, Random], dict[str, Any]] = no_params
    """Parameters that a demonstration exists for."""
    seen: bool = True
    """Unseen families occur in the held-out prompts only."""
    min_words: int = 3
    """Fewer words are no answer, so nothing is gained by silence."""
    topics: Callable[[bool], tuple[Topic, ...]] = field(default=bank_topics)
    """Topics by side of the split (True: held out)."""
    wants_full_stop: bool = True
    """Whether prose of this family should end with punctuation."""

    def prompt(self, topic: Topic, params: Params, rng: Random) -> str:
        """A prompt in one of the phrasings."""
        return rng.choice(self.phrasings).format(topic=topic.name, **params)

    def all_prompts(self, topic: str, params: Params) -> list[str]:
        """The prompt in every phrasing, to recognise a response that copies it."""
        return [phrasing.format(topic=topic, **params) for phrasing in self.phrasings]

    def closeness(self, response: str, params: Params) -> float:
        """How nearly a response does what was asked, in [0, 1]; 1 if and only if it is satisfied.

        Partial credit is what makes rankings of a weak model's samples informative: few of them satisfy anything.
        """
        if len(words(response)) < self.min_words:
            return 0.0
        return min(1.0, max(0.0, self.grade(response, params)))

    def satisfied(self, response: str, params: Params) -> bool:
        """Whether a response does what was asked; whether it is any good otherwise is for `gold_score`."""
        return self.closeness(response, params) == 1.0
