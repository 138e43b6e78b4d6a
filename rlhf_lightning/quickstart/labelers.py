"""Simulated labelers: each ranks by the gold preference bent by a taste, with noise, ties and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rlhf_lightning.quickstart.gold import Assessment, Check, assess, topic_of
from rlhf_lightning.quickstart.refusal import polite
from rlhf_lightning.quickstart.wording import words


@dataclass(frozen=True)
class Labeler:
    """One person's taste. Weights are in units of the gold score, of which the whole range is 1."""

    name: str
    group: str
    """Labelers of a group look for the same things."""
    constraint: float = 0.0
    """Extra weight of following the instruction."""
    brevity: float = 0.0
    """Weight of few words: 1 for none, 0 from 25 on."""
    detail: float = 0.0
    """Weight of words (up to 25) and of different words that belong to the topic (up to 3), half each."""
    form: float = 0.0
    """Weight of an end of its own, a full stop, and a polite word where something is refused."""
    noise: float = 0.1
    """Standard deviation of what this person feels about a response on a given day."""
    tie: float = 0.02
    """Responses closer than this to the best one of their rank share it."""
    error: float = 0.03
    """Chance that a response is misjudged altogether."""

    def liking(self, check: Check, response: str, ended: bool) -> float:
        """How much this person likes a response, before noise."""
        seen = assess(check, response, ended)
        count = len(words(response))
        few = max(0.0, 1 - count / 25)
        much = min(1.0, count / 25) / 2 + min(1.0, topic_of(check).related_in(response) / 3) / 2
        taste = self.constraint * seen.constraint + self.brevity * few + self.detail * much
        return seen.score + seen.sound * (taste + self.form * _form(seen, response))


def _form(seen: Assessment, response: str) -> float:
    return (seen.ended + seen.tidy + polite(response)) / 3


LABELERS = (
    Labeler("alma", "instruction", constraint=0.3, detail=0.15, noise=0.13),
    Labeler("bruno", "content", detail=0.6, noise=0.12, tie=0.03),
    Labeler("chidi", "form", form=0.3, brevity=0.2, detail=0.3, noise=0.12),
    Labeler("dana", "instruction", constraint=0.1, detail=0.35, noise=0.13, tie=0.04, error=0.05),
)
"""Two of them agree on about 80 % of the pairs of the shipped rankings, a little more than InstructGPT's labelers
(73 %, §3.4): a few hundred prompts must teach a reward model what took 33,000 there."""


def rank(labeler: Labeler, check: Check, responses: Sequence[tuple[str, bool]], rng: Random) -> list[int]:
    """Rank responses to one prompt.

    Args:
        labeler: Who ranks.
        check: Of the prompt's row.
        responses: Text and whether it ended by itself, [K].
        rng: Of the noise.

    Returns:
        Dense ranks [K]: 1 is best, equal means tied, and no number is left out.
    """
    felt = []
    for text, ended in responses:
        honest = labeler.liking(check, text, ended) + rng.gauss(0.0, labeler.noise)
        arbitrary = rng.random()
        felt.append(arbitrary if rng.random() < labeler.error else honest)
    ranks = [0] * len(felt)
    current, best_of_rank = 0, float("inf")
    for i in sorted(range(len(felt)), key=lambda i: -felt[i]):
        if current == 0 or best_of_rank - felt[i] > labeler.tie:
            current, best_of_rank = current + 1, felt[i]
        ranks[i] = current
    return ranks
