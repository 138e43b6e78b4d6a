"""Who wins: win rates, ratings and length-controlled win rates by every judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

from rlhf_lightning.evaluation.agreement import agreement, kappa
from rlhf_lightning.evaluation.comparing import Outcome, Pairing, compare_models
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.intervals import rate_interval
from rlhf_lightning.evaluation.judges import Judge, ScoringJudge
from rlhf_lightning.evaluation.length_control import length_controlled
from rlhf_lightning.evaluation.ratings import ratings
from rlhf_lightning.evaluation.sections import Section
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.ppo.reward_terms import describe


def preference(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    """What every judge says.

    Returns:
        `baseline`, `models`; `agreement` of every two judges (see `_agreement`); `incomplete`, whether a judge failed
        somewhere, which then is tried again by the next start; and `judges`: by name

        - `kind`: scores or pairs (both orders are seen); `trained_against`: by model, whether it was optimized for
          this judge, None where nobody knows.
        - `win_rates`: every other model against the baseline, see `_summary`, with `length_controlled` and
          `by_category` (see `_by_category`).
        - `matrix`: of every two models that were compared, the same for the row's model over the column's.
        - `ratings`: by model, `bradley_terry` (log-odds over the baseline) and `elo` (baseline 1000), intervals or
          None; the baseline has 0 and 1000 by definition.
    """
    outcomes = {n: compare_models(context, n, judge, settings.preference) for n, judge in context.judges.items()}
    failed = any(o.excluded == "failed" for found in outcomes.values() for part in found.values() for o in part)
    return {
        "baseline": context.baseline,
        "models": list(context.entries),
        "incomplete": failed,
        "agreement": [_agreement(a, b, outcomes[a], outcomes[b]) for a, b in combinations(outcomes, 2)],
        "judges": {name: _judged(context, context.judges[name], dict(found)) for name, found in outcomes.items()},
    }


def _judged(context: EvaluationContext, judge: Judge, outcomes: dict[Pairing, list[Outcome]]) -> dict[str, Any]:
    outcomes |= {(b, a): [turned(o) for o in found] for (a, b), found in list(outcomes.items())}
    matrix: dict[str, dict[str, Any]] = {}
    for (a, b), found in outcomes.items():
        matrix.setdefault(a, {})[b] = _summary(found)
    categories = {p.id: str(p.fields["category"]) for p in context.prompts if "category" in p.fields}
    win_rates = {
        model: matrix[model][context.baseline]
        | {"length_controlled": length_controlled(outcomes[model, context.baseline])}
        | {"by_category": _by_category(outcomes[model, context.baseline], categories)}
        for model in context.entries
        if (model, context.baseline) in outcomes
    }
    return {
        "kind": "scores" if isinstance(judge, ScoringJudge) else "pairs",
        "judge": describe(judge),
        "trained_against": {model: judge.trained_against(context, model) for model in context.entries},
        "win_rates": win_rates,
        "matrix": {a: matrix[a] for a in context.entries if a in matrix},
        "ratings": ratings(outcomes, list(context.entries), context.baseline),
    }


def turned(outcome: Outcome) -> Outcome:
    """The same with the models the other way round."""
    value = None if outcome.value is None else 1 - outcome.value
    return replace(outcome, value=value, length_difference=-outcome.length_difference)


def per_prompt(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Mean outcome of each prompt that has one, over its samples."""
    values: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.value is not None:
            values.setdefault(outcome.id, []).append(outcome.value)
    return {name: sum(v) / len(v) for name, v in values.items()}


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`win_rate` (ties count half; None without comparisons), and counts.

    `prompts` and `comparisons` are those that count; `wins`, `ties`, `losses` of comparisons, more than half being a
    win; `inconsistent`, those that changed with the order; `excluded`, by reason; `empty`, comparisons with an empty
    response.
    """
    values = [o.value for o in outcomes if o.value is not None]
    means = list(per_prompt(outcomes).values())
    return {
        "win_rate": asdict(rate_interval(means)) if means else None,
        "prompts": len(means),
        "comparisons": len(values),
        "wins": sum(v > 0.5 for v in values),
        "ties": sum(v == 0.5 for v in values),
        "losses": sum(v < 0.5 for v in values),
        "inconsistent": sum(o.inconsistent for o in outcomes),
        "excluded": {why: sum(o.excluded == why for o in outcomes) for why in ("missing", "failed", "empty")},
        "empty": sum(o.empty > 0 for o in outcomes),
    }


def _agreement(
    one: str, two: str, ours: Mapping[Pairing, list[Outcome]], theirs: Mapping[Pairing, list[Outcome]]
) -> dict[str, Any]:
    """How far two judges say the same (win, tie or loss) of the comparisons that both have decided: `agreement`,
    Cohen's `kappa` and how many `comparisons` there are; the first two None where they do not exist."""
    pairs = [(a.value, b.value) for p in ours for a, b in zip(ours[p], theirs[p], strict=True)]
    said = [(_sign(a), _sign(b)) for a, b in pairs if a is not None and b is not None]
    first, second = [a for a, _ in said], [b for _, b in said]
    about = {"judges": [one, two], "comparisons": len(said)}
    return about | {"agreement": agreement(first, second), "kappa": kappa(first, second)}


def _sign(value: float) -> int:
    return (value > 0.5) - (value < 0.5)


def _by_category(outcomes: Sequence[Outcome], categories: dict[str, str]) -> dict[str, Any]:
    """The same, shorter, for the prompts of each category: `win_rate` and `prompts`."""
    groups: dict[str, list[float]] = {}
    for name, value in per_prompt(outcomes).items():
        if name in categories:
            groups.setdefault(categories[name], []).append(value)
    return {c: {"win_rate": asdict(rate_interval(v)), "prompts": len(v)} for c, v in sorted(groups.items())}


def _inputs(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    rewards = context.reward_sources.items()
    trained = {n: {r: e.trained_against(s) for r, s in rewards} for n, e in context.entries.items()}
    return {
        "generations": context.generation_digests(),
        "judges": {name: [describe(judge), judge.content()] for name, judge in context.judges.items()},
        "baseline": context.baseline,
        "preference": settings.preference,
        "trained_against": trained,
    }


def _wanted(settings: EvaluateSettings) -> bool:
    return len(settings.models) > 1 and bool(settings.judges or settings.reward)


SECTION = Section(preference, _inputs, _wanted)
