"""The gold preference: what the simulated labelers approximate, and what the comparison is judged by.

A program can verify constraints, topic and form, but not truth: a fluent falsehood scores like a fact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rlhf_lightning.quickstart.families import FAMILIES
from rlhf_lightning.quickstart.family import Family
from rlhf_lightning.quickstart.form_families import COMMA_LIST
from rlhf_lightning.quickstart.refusal import REFUSAL, refuses
from rlhf_lightning.quickstart.topics import Topic, topic_named
from rlhf_lightning.quickstart.wording import sentences, stem, straighten, words

Check = Mapping[str, Any]
"""JSON-able: `family`, `topic`, `params` and `seen`; stored in every row."""

CONSTRAINT, TOPIC, ENDED, TIDY = 0.55, 0.25, 0.15, 0.05
"""Shares of the score; they sum to 1."""

LONG = 45
"""Words beyond which a response is longer than anything that was asked for."""

PLAIN_TEXT = re.compile(r"[A-Za-z0-9\s.,;:!?'\"()*-]")
VOWEL = re.compile(r"[aeiouy0-9]")
STUTTER = re.compile(r"(.)\1\1")


@dataclass(frozen=True)
class Assessment:
    """Everything the program can tell about a response; each number is in [0, 1]."""

    constraint: float
    """Closeness to the instruction."""
    topic: float
    """Mentions the topic, and something that belongs to it."""
    sound: float
    """Text somebody could have meant: no loops, no debris, no copy of the prompt, no bare keywords, not endless."""
    ended: float
    """1 when the response came to its own end."""
    tidy: float
    """1 when prose ends with punctuation."""

    @property
    def score(self) -> float:
        """The gold score, in [0, 1]."""
        # Off-topic text earns little by following the form, so that no single sentence answers every prompt.
        followed = self.constraint * (0.3 + 0.7 * self.topic)
        return self.sound * (CONSTRAINT * followed + TOPIC * self.topic + ENDED * self.ended + TIDY * self.tidy)


def gold_score(check: Check, response: str, ended: bool) -> float:
    """The gold preference as a number in [0, 1].

    Args:
        check: Of the prompt's row.
        response: The text, without EOS.
        ended: Whether the model ended it with EOS rather than being cut off.
    """
    return assess(check, response, ended).score


def constraint_satisfied(check: Check, response: str) -> bool:
    """Whether a response does what its instruction asks, whatever else is wrong with it."""
    return FAMILIES[check["family"]].satisfied(response, check["params"])


def assess(check: Check, response: str, ended: bool) -> Assessment:
    """All parts of the gold score."""
    family, topic = FAMILIES[check["family"]], topic_of(check)
    text = straighten(response)
    if not words(text):
        return Assessment(0.0, 0.0, 0.0, float(ended), 0.0)
    sound = _varied(text) * _plain(text) * _bounded(text) * _own(text, family, check) * _prose(text, family, topic)
    if family is not REFUSAL and refuses(text):
        sound *= 0.3
    tidy = not family.wants_full_stop or text.rstrip("\"')").endswith((".", "!", "?"))
    on_topic = _on_topic(text, family, topic, check)
    return Assessment(family.closeness(text, check["params"]), on_topic, sound, float(ended), float(tidy))


def topic_of(check: Check) -> Topic:
    """The topic of a row; a harmful request is its own."""
    if check["family"] == REFUSAL.name:
        return Topic(check["topic"], (), (), held_out=False)
    return topic_named(check["topic"])


def _on_topic(text: str, family: Family, topic: Topic, check: Check) -> float:
    # Words that the prompt gives away show nothing.
    given = {stem(w) for value in check["params"].values() if isinstance(value, str) for w in words(value)}
    named, related = topic.mentioned_in(text), topic.related_in(text, without=given)
    if family is REFUSAL:
        return 1.0 if named else 0.7
    if named:
        # A list of things that go with a topic need not name it.
        return 1.0 if related else 0.7
    return (0.0, 0.6, 0.9)[min(related, 2)] if family is not COMMA_LIST else (0.0, 0.8, 1.0)[min(related, 2)]


def _varied(text: str) -> float:
    """Repetition of words, of neighbours and of phrases."""
    used = [stem(word) for word in words(text)]
    different = len(set(used)) / len(used)
    triples = list(zip(used, used[1:], used[2:], strict=False))
    phrases = len(set(triples)) / len(triples) if triples else 1.0
    doubled = sum(a == b for s in sentences(text) for a, b in pairwise(stem(w) for w in words(s)))
    return float(min(1.0, max(0.0, (different - 0.25) / 0.35)) * phrases**2 * 0.5**doubled)


def _plain(text: str) -> float:
    """Shares of ordinary characters and of pronounceable words."""
    characters = sum(1 for c in text if PLAIN_TEXT.match(c)) / len(text)
    used = words(text)
    readable = sum(bool(VOWEL.search(w)) and len(w) <= 18 and not STUTTER.search(w) for w in used) / len(used)
    return float(min(1.0, characters + 0.03) ** 3 * readable**2)


def _bounded(text: str) -> float:
    return min(1.0, LONG / len(words(text)))


def _own(text: str, family: Family, check: Check) -> float:
    """Falls to 0.1 as runs of four words are taken from the prompt, in whichever phrasing."""
    runs = _runs(text)
    if not runs:
        return 1.0
    prompts = family.all_prompts(check["topic"], check["params"])
    copied = max(len(runs & _runs(prompt)) for prompt in prompts) / len(runs)
    return min(1.0, max(0.1, 1 - (copied - 0.35) / 0.35))


def _runs(text: str, length: int = 4) -> set[tuple[str, ...]]:
    used = words(text)
    return {tuple(used[i : i + length]) for i in range(len(used) - length + 1)}


def _prose(text: str, family: Family, topic: Topic) -> float:
    """Where sentences are wanted: bare keywords and two-word grunts are none."""
    used = words(text)
    if family is COMMA_LIST:
        return 1.0
    bare = {stem(w) for w in (*topic.keywords, *words(topic.name))}
    stuffed = sum(stem(word) in bare for word in used) / len(used) > 0.85 and family is not REFUSAL
    return (0.3 if stuffed else 1.0) * (1.0 if len(used) > 3 else 0.85 if len(used) == 3 else 0.4)
