"""The gold program as a judge of `evaluate`, for prompts whose rows have a `check`."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.judges import Answer, ScoringJudge
from rlhf_lightning.quickstart.families import FAMILIES
from rlhf_lightning.quickstart.gold import gold_score


class GoldJudge(ScoringJudge):
    """Gives each response its gold score, in [0, 1]: the program's verdict on what the instruction asks."""

    def __init__(self, tie_margin: float = 0.0) -> None:
        """
        Args:
            tie_margin: Scores that differ by no more are a tie.
        """
        self.tie_margin = tie_margin

    def check(self, context: EvaluationContext, key: str) -> None:
        for prompt in context.prompts:
            check = prompt.fields.get("check")
            if not isinstance(check, dict) or check.get("family") not in FAMILIES:
                raise UserError(
                    f"{key}: {prompt.where} has no `check` that the gold program knows, so it cannot be judged. "
                    "Leave this judge out, or take prompts such as configs/quickstart/data/heldout_seen.jsonl."
                )

    def score(self, answers: Sequence[Answer]) -> Sequence[float | None]:
        return [gold_score(answer.fields["check"], answer.response, answer.ended) for answer in answers]
