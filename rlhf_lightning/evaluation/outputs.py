"""What the responses of each model are like: KL, entropy, length, ends, repetition, diversity, scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.generations import Generation
from rlhf_lightning.evaluation.intervals import mean_interval, rate_interval
from rlhf_lightning.evaluation.sections import Section
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.evaluation.text_statistics import distinct_n, repetition_n, self_bleu, words

Measure = Callable[[Generation], float | None]

MEASURES: dict[str, Measure] = {
    "kl": lambda g: g.kl,
    "entropy": lambda g: g.entropy,
    "response_tokens": lambda g: float(g.tokens) if g.response_ids else None,
    "response_words": lambda g: float(len(words(g.response))),
    "eos_rate": lambda g: float(g.ended),
    "empty_rate": lambda g: float(not g.response),
    "repetition_2": lambda g: repetition_n(words(g.response), 2),
    "repetition_4": lambda g: repetition_n(words(g.response), 4),
}
"""Of one response. `kl` is in nats per response, `entropy` in nats per token, `repetition_n` the share of a response's
n-grams that it has had before (seq-rep-n, arXiv 1908.04319)."""
RATES = {"eos_rate", "empty_rate"}


def outputs(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    """Statistics of every model's responses.

    Returns:
        `models`: by name, every measure as an interval over prompts (a prompt's samples are averaged first), or None
        where it does not exist; `scores` by reward; `distinct_1`, `distinct_2`, `self_bleu` over the first sample of
        all prompts, and `distinct_2_within_prompt`, `self_bleu_within_prompt` over the samples of a prompt, where
        there are several; `responses`, `empty`, `cut_off`: counts.
    """
    return {
        "reference": context.reference,
        "samples_per_prompt": settings.samples_per_prompt,
        "models": {name: _model(context, context.generations(name)) for name in context.entries},
    }


def _model(context: EvaluationContext, rows: list[Generation]) -> dict[str, Any]:
    by_prompt: dict[str, list[Generation]] = {}
    for row in rows:
        by_prompt.setdefault(row.id, []).append(row)
    groups = list(by_prompt.values())
    seed = context.seed_for("outputs")
    scores: dict[str, Measure] = {name: _score_of(name) for name in context.reward_sources}
    return {
        **{name: over_prompts(groups, measure, seed, name in RATES) for name, measure in MEASURES.items()},
        "scores": {name: over_prompts(groups, measure, seed) for name, measure in scores.items()},
        **_diversity(groups, seed),
        "responses": len(rows),
        "empty": sum(not row.response for row in rows),
        "cut_off": sum(not row.ended for row in rows),
    }


def over_prompts(
    groups: Sequence[Sequence[Generation]], measure: Measure, seed: int, is_rate: bool = False
) -> dict[str, float] | None:
    """Mean over prompts of the mean over a prompt's samples, with its interval; None where nothing is measured.

    Args:
        groups: The responses to each prompt.
        measure: Of one response.
        seed: Of the bootstrap.
        is_rate: It is a number in [0, 1], whose interval is `rate_interval`'s and needs no bootstrap.
    """
    means = []
    for group in groups:
        values = [value for row in group if (value := measure(row)) is not None]
        if values:
            means.append(sum(values) / len(values))
    if not means:
        return None
    return asdict(rate_interval(means) if is_rate else mean_interval(means, seed))


def _score_of(name: str) -> Measure:
    return lambda row: row.scores.get(name)


def _diversity(groups: Sequence[Sequence[Generation]], seed: int) -> dict[str, Any]:
    first = [words(group[0].response) for group in groups]
    several = [[words(row.response) for row in group] for group in groups if len(group) > 1]
    within = {
        "distinct_2_within_prompt": [d for texts in several if (d := distinct_n(texts, 2)) is not None],
        "self_bleu_within_prompt": [b for texts in several if (b := self_bleu(texts)) is not None],
    }
    return {
        "distinct_1": distinct_n(first, 1),
        "distinct_2": distinct_n(first, 2),
        "self_bleu": self_bleu(first),
        **{name: asdict(mean_interval(values, seed)) if values else None for name, values in within.items()},
    }


def _inputs(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    return {"generations": context.generation_digests(), "reference": context.reference, "seed": settings.seed}


SECTION = Section(outputs, _inputs)
