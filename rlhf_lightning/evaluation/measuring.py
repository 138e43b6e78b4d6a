"""What is known of a response beside its text: KL to the reference, entropy, scores of reward models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlhf_lightning.data.kinds import PromptLike
from rlhf_lightning.evaluation.evaluated_model import EvaluatedModel, TokenPair
from rlhf_lightning.evaluation.generations import Generation
from rlhf_lightning.evaluation.prompts import EvaluationPrompt
from rlhf_lightning.text_reward_models import TextRewardModel


def measure_tokens(
    rows: Sequence[Generation],
    prompts: Mapping[str, EvaluationPrompt],
    model: EvaluatedModel,
    reference: EvaluatedModel | None,
    temperature: float,
    batch_tokens: int,
) -> list[Generation]:
    """Rows with log-probability, entropy and KL.

    Each model reads the prompt in its own template, as it does when it is used.

    Args:
        rows: Responses of `model`.
        prompts: By id.
        model: Whose responses they are.
        reference: What KL is measured to; None where token ids mean something else there.
        temperature: Of the sampling: the distribution measured is the one that was sampled from. Greedy responses
            are measured at 1.
        batch_tokens: Tokens of a forward.
    """

    def pairs(reader: EvaluatedModel) -> list[TokenPair]:
        return [(reader.template.encode_prompt(_prompt(prompts, row)), row.response_ids) for row in rows]

    own = model.token_scores(pairs(model), temperature or 1.0, batch_tokens)
    logprobs = [float(s.logprobs.double().sum()) for s in own]
    if reference is None:
        kl: list[float | None] = [None] * len(rows)
    elif reference.name == model.name:
        kl = [0.0] * len(rows)
    else:
        theirs = reference.token_scores(pairs(reference), temperature or 1.0, batch_tokens)
        kl = [ours - float(s.logprobs.double().sum()) for ours, s in zip(logprobs, theirs, strict=True)]
    return [
        replace(row, kl=kl[i], logprob=logprobs[i], entropy=float(own[i].entropy.mean())) for i, row in enumerate(rows)
    ]


def measure_scores(
    rows: Sequence[Generation], prompts: Mapping[str, EvaluationPrompt], rewards: Mapping[str, TextRewardModel]
) -> list[Generation]:
    """Rows with the scores of reward models, which read text.

    Args:
        rows: Responses.
        prompts: By id.
        rewards: By name.
    """
    given = [prompts[row.id].row for row in rows]
    texts, ended = [row.response for row in rows], [row.ended for row in rows]
    scores = {name: reward.score(given, texts, ended, lambda _: None) for name, reward in rewards.items()}
    return [replace(row, scores={name: values[i] for name, values in scores.items()}) for i, row in enumerate(rows)]


def _prompt(prompts: Mapping[str, EvaluationPrompt], row: Generation) -> PromptLike:
    return prompts[row.id].prompt
