"""The trust report as a section of `evaluate`: its models' answers are the policies, a scoring judge gives gold."""

from __future__ import annotations

import math
from typing import Any

from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.loading import load
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.generations import Generation
from rlhf_lightning.evaluation.judges import Answer, RewardJudge, ScoringJudge
from rlhf_lightning.evaluation.sections import Section
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.evaluation.trust.inputs import (
    check_texts,
    find_training,
    grouped,
    response_texts,
    sample_rankings,
    score_texts,
    shared_prompts,
)
from rlhf_lightning.evaluation.trust.report import PolicyOutputs, TrustInputs, plain, trust_report
from rlhf_lightning.evaluation.trust.settings import TrustSectionSettings
from rlhf_lightning.fitting.identity import plain as plain_settings
from rlhf_lightning.text_reward_models import RewardReader

TRAINING_RESPONSES = 4000
"""Training responses that are scored, at most, for the distribution of scores."""


def trust(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    """The report.

    Returns:
        `report.plain` of it, with `reward`, `gold` (the judge, or None), `training` (what is known of it) and
        `held_out_prompts_in_training`, which flatter the model.
    """
    own = _wanted(settings)
    name = _reward(own, context)
    held_out = load(Ranking, own.rankings, "trust.rankings", settings.on_bad_row).rows
    training, known = find_training(context.reward_sources[name], own.training, "trust.training")
    sampled = sample_rankings(training, TRAINING_RESPONSES, settings.seed) if training else []
    model = context.reward(name)
    with context.autocast():
        scores = [score_texts(model, response_texts(rows)) for rows in (held_out, sampled)]
    gold = _gold(own, context)
    policies = [_outputs(context, model_name, name, gold) for model_name in context.entries]
    inputs = TrustInputs(
        held_out,
        grouped(scores[0], held_out),
        training,
        grouped(scores[1], sampled) or None,
        [policy for policy in policies if policy.responses],
    )
    report = trust_report(inputs, own.slices, settings.seed)
    made_from: dict[str, Any] = {
        "reward": name,
        "gold": own.gold,
        "training": {"rows": len(training or ()), "known": known},
        "held_out_prompts_in_training": shared_prompts(held_out, training),
    }
    return {**made_from, **plain(report)}


def _wanted(settings: EvaluateSettings) -> TrustSectionSettings:
    assert settings.trust is not None
    return settings.trust


def _reward(own: TrustSectionSettings, context: EvaluationContext) -> str:
    names = list(context.reward_sources)
    if not names:
        raise UserError("trust: needs the reward model that it is about; give it as `reward`.")
    if own.reward is not None and own.reward not in names:
        raise UserError(f"trust.reward: {own.reward!r} is none of the reward models: {', '.join(names)}.")
    return own.reward or names[0]


def _gold(own: TrustSectionSettings, context: EvaluationContext) -> ScoringJudge | None:
    if own.gold is None:
        return None
    judge = context.judges.get(own.gold)
    if not isinstance(judge, ScoringJudge):
        problem = "is none of the judges" if judge is None else "compares pairs and gives no scores"
        raise UserError(f"trust.gold: {own.gold!r} {problem}; name a judge that scores each response.")
    weights, name = context.reward_fingerprints, _reward(own, context)
    if isinstance(judge, RewardJudge) and weights[judge.reward] == weights[name]:
        raise UserError(
            f"trust.gold: {own.gold!r} is the reward model that the report is about ({name}); it cannot say where its "
            "scores part from gold. Name another judge, or leave it out."
        )
    return judge


def _outputs(context: EvaluationContext, model: str, reward: str, gold: ScoringJudge | None) -> PolicyOutputs:
    rows = [row for row in context.generations(model) if reward in row.scores]
    return PolicyOutputs(
        model,
        [row.id for row in rows],
        [row.response for row in rows],
        [row.scores[reward] for row in rows],
        _complete([row.kl for row in rows]),
        None if gold is None else _complete(list(gold.score([_answer(context, model, row) for row in rows]))),
    )


def _complete(values: list[float | None]) -> list[float] | None:
    known = [v for v in values if v is not None and math.isfinite(v)]
    return known if len(known) == len(values) else None


def _answer(context: EvaluationContext, model: str, row: Generation) -> Answer:
    fields = context.by_id[row.id].fields
    return Answer(row.id, row.sample, row.prompt, row.response, row.ended, fields, model, row.scores)


def _check(settings: EvaluateSettings, context: EvaluationContext) -> None:
    own = _wanted(settings)
    _gold(own, context)
    rows = load(Ranking, own.rankings, "trust.rankings", settings.on_bad_row).rows
    source = context.reward_sources[_reward(own, context)]
    check_texts(RewardReader(source, "reward", settings.trust_remote_code), response_texts(rows))
    if own.training is not None:
        load(Ranking, own.training, "trust.training")


def _inputs(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    own = _wanted(settings)
    name = _reward(own, context)
    training, known = find_training(context.reward_sources[name], own.training, "trust.training")
    return {
        "settings": plain_settings(own),
        "reward": context.reward_fingerprints[name],
        "rankings": load(Ranking, own.rankings, "trust.rankings", settings.on_bad_row).fingerprint,
        "training": [len(training or ()), known],
        "gold": context.judges[own.gold].content() if own.gold else "",
        "generations": context.generation_digests(),
        "seed": settings.seed,
    }


SECTION = Section(trust, _inputs, lambda settings: settings.trust is not None, _check)
