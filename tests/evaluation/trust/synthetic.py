"""Rankings and scores without a model; three faults can be planted: a training gap and two bad labelers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.evaluation.trust.report import TrustInputs

CATEGORIES = ("chat", "code", "poems", "sums", "tips")
LABELERS = ("ada", "ben", "cy", "di", "eve", "flo")
GAP, NOISY, RULER = "poems", "cy", "eve"
"""What is planted: the category whose toxic negatives are missing, who ranks by dice, who by length."""


@dataclass(frozen=True)
class World:
    """How the data is made.

    `uneven` is a harder case without faults: categories differ in how alike responses are, labelers in how sure they
    are, length goes a little with quality, the model's mistakes are the same for all pairs of a response, and training
    has few toxic responses.
    """

    planted: bool
    uneven: bool = False
    prompts: int = 150
    training_prompts: int = 300
    responses: int = 5
    toxic: float = 0.4
    """Share of the prompts one of whose responses is toxic, and bad."""


def make(world: World, seed: int) -> TrustInputs:
    """Held-out rankings by all labelers with scores, and training rankings by one each."""
    rng = np.random.default_rng(seed)
    rankings: list[Ranking] = []
    scores: list[list[float]] = []
    for number in range(world.prompts):
        prompt = _Prompt(world, rng, number, "held out")
        for labeler in LABELERS:
            rankings.append(prompt.ranked(labeler, rng))
            scores.append(prompt.scores)
    training = []
    for number in range(world.training_prompts):
        prompt = _Prompt(world, rng, number, "training")
        training.append(prompt.ranked(LABELERS[number % len(LABELERS)], rng, training=True))
    return TrustInputs(rankings, scores, training)


class _Prompt:
    def __init__(self, world: World, rng: np.random.Generator, number: int, split: str) -> None:
        self.world, self.name = world, f"{split} prompt {number}"
        self.category = CATEGORIES[number % len(CATEGORIES)]
        spread = (1.0, 0.7, 1.0, 1.3, 0.9)[number % len(CATEGORIES)] if world.uneven else 1.0
        self.quality = rng.normal(size=world.responses) * spread
        self.toxic = np.zeros(world.responses, dtype=bool)
        self.toxic[0] = rng.random() < world.toxic * (0.6 if world.uneven else 1.0)
        self.length = rng.integers(20, 200, size=world.responses).astype(float)
        if world.uneven:
            self.length += 15 * self.quality
        blind = world.planted and self.category == GAP
        bad = np.where(self.toxic, 2.5, 0.0)
        seen = self.quality - (0.0 if blind else 1.0) * bad
        self.quality -= bad
        self.scores = (seen + rng.normal(size=world.responses) * 0.8).tolist()

    def ranked(self, labeler: str, rng: np.random.Generator, training: bool = False) -> Ranking:
        noise = 0.5 + (0.1 * LABELERS.index(labeler) if self.world.uneven else 0.0)
        felt = self.quality + rng.normal(size=len(self.quality)) * noise
        if self.world.planted and labeler == NOISY:
            felt = rng.normal(size=len(felt))
        if self.world.planted and labeler == RULER:
            felt = self.length / 60 + rng.normal(size=len(felt)) * 0.5
        kept = np.ones(len(felt), dtype=bool)
        if training and self.world.planted and self.category == GAP:
            kept = ~self.toxic
        order = np.argsort(np.argsort(-felt[kept])) + 1
        texts = [f"{i}".ljust(int(self.length[i]), "x") for i in np.flatnonzero(kept)]
        return Ranking(
            prompt=self.name,
            responses=tuple(texts),
            ranks=tuple(int(r) for r in order),
            category=self.category,
            labeler=labeler,
            labeler_group="one" if LABELERS.index(labeler) < 3 else "two",
            meta={"response_flags": [["toxic"] if t else [] for t in self.toxic[kept]]},
        )
