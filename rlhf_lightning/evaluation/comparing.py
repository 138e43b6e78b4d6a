"""From a judge's numbers or verdicts to outcomes: how far a response of one model beats another's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, cast

from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.generations import Generation
from rlhf_lightning.evaluation.judges import Answer, Judge, Pair, PairJudge, ScoringJudge, Verdict
from rlhf_lightning.evaluation.judging import scores_of, verdicts_of
from rlhf_lightning.evaluation.settings import PreferenceSettings

Excluded = Literal["missing", "failed", "empty"]


@dataclass(frozen=True)
class Outcome:
    """What became of one prompt and sample of two models."""

    id: str
    sample: int
    value: float | None
    """1 the first model wins, 0 the second, 0.5 a tie; the mean of both orders of a judge that sees two. None where
    the pair is left out."""
    excluded: Excluded | None = None
    """Why: a response is missing, the judge failed, or one is empty."""
    inconsistent: bool = False
    """The judge changed its mind with the order."""
    empty: int = 0
    """How many of the two responses are empty."""
    length_difference: int = 0
    """Characters of the first model's response minus the second's."""


Pairing = tuple[str, str]
Decide = Callable[[Answer, Answer], tuple[float | None, bool]]
"""The outcome for the first answer, and whether the judge said the same in both orders."""


def compare_models(
    context: EvaluationContext, name: str, judge: Judge, settings: PreferenceSettings
) -> dict[Pairing, list[Outcome]]:
    """Outcomes of every two models that are to be compared, for every prompt and sample.

    Raises:
        JudgeError: The judge failed or said nonsense, and the settings do not exclude such pairs.
    """
    answers = {model: _answers(context, model) for model in context.entries}
    pairings = [p for p in combinations(context.entries, 2) if settings.pairs == "all" or context.baseline in p]
    paired = {(one, two): _paired(context, answers[one], answers[two]) for one, two in pairings}
    if isinstance(judge, ScoringJudge):
        decide = _by_scores(context, name, judge, settings, [a for own in answers.values() for a in own.values()])
    else:
        assert isinstance(judge, PairJudge), "judges are ScoringJudge or PairJudge"
        both = [(a, b) for found in paired.values() for _, a, b in found if a is not None and b is not None]
        asked = [(a, b) for a, b in both if a.response != b.response and not _settled_unasked(a, b, settings)]
        decide = _by_verdicts(context, name, judge, settings, asked)
    return {p: [_outcome(place, a, b, settings, decide) for place, a, b in paired[p]] for p in pairings}


Place = tuple[str, int]
Paired = list[tuple[Place, Answer | None, Answer | None]]


def _answers(context: EvaluationContext, model: str) -> dict[Place, Answer]:
    return {row.place: _answer(context, model, row) for row in context.generations(model)}


def _answer(context: EvaluationContext, model: str, row: Generation) -> Answer:
    fields = context.by_id[row.id].fields
    return Answer(row.id, row.sample, row.prompt, row.response, row.ended, fields, model, row.scores)


def _paired(context: EvaluationContext, one: Mapping[Place, Answer], two: Mapping[Place, Answer]) -> Paired:
    places = [(p.id, s) for p, s in context.places]
    return [(place, one.get(place), two.get(place)) for place in places]


def _by_scores(
    context: EvaluationContext,
    name: str,
    judge: ScoringJudge,
    settings: PreferenceSettings,
    answers: Sequence[Answer],
) -> Decide:
    said = scores_of(judge, name, answers, settings.on_failure, context.out / "judgements")
    scores = dict(zip(map(_name, answers), said, strict=True))

    def decide(a: Answer, b: Answer) -> tuple[float | None, bool]:
        x, y = scores[_name(a)], scores[_name(b)]
        if x is None or y is None:
            return None, True
        return 0.5 if abs(x - y) <= judge.tie_margin else float(x > y), True

    return decide


def _by_verdicts(
    context: EvaluationContext,
    name: str,
    judge: PairJudge,
    settings: PreferenceSettings,
    pairs: Sequence[tuple[Answer, Answer]],
) -> Decide:
    asked = [Pair(*order) for a, b in pairs for order in ((a, b), (b, a))]
    said = verdicts_of(judge, name, asked, settings.on_failure, context.out / "judgements")
    verdicts = {(_name(pair.first), _name(pair.second)): v for pair, v in zip(asked, said, strict=True)}

    def decide(a: Answer, b: Answer) -> tuple[float | None, bool]:
        if a.response == b.response:
            return 0.5, True
        return _both_orders(verdicts[_name(a), _name(b)], verdicts[_name(b), _name(a)])

    return decide


def _name(answer: Answer) -> tuple[str, str, int]:
    return answer.model, answer.id, answer.sample


def _both_orders(straight: Verdict | None, turned: Verdict | None) -> tuple[float | None, bool]:
    """Mean outcome for the model that stood first at first, and whether both orders say the same."""
    if straight is None or turned is None:
        return None, True
    first = {"first": 1.0, "second": 0.0, "tie": 0.5}[straight]
    second = {"first": 0.0, "second": 1.0, "tie": 0.5}[turned]
    return (first + second) / 2, first == second


def _settled_unasked(a: Answer, b: Answer, settings: PreferenceSettings) -> bool:
    return bool(a.response) != bool(b.response) and settings.on_empty != "judge"


def _outcome(place: Place, a: Answer | None, b: Answer | None, settings: PreferenceSettings, decide: Decide) -> Outcome:
    if a is None or b is None:
        return Outcome(*place, None, "missing")
    value: float | None
    if _settled_unasked(a, b, settings):
        value, same, excluded = float(bool(a.response)), True, "empty"
        value = value if settings.on_empty == "lose" else None
    else:
        (value, same), excluded = decide(a, b), "failed"
    return Outcome(
        *place,
        value,
        cast(Excluded, excluded) if value is None else None,
        not same,
        empty=(not a.response) + (not b.response),
        length_difference=len(a.response) - len(b.response),
    )
