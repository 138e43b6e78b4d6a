"""Verdicts that are there already, such as people's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rlhf_lightning.data.reading import read_records
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.judges import Pair, PairJudge, Verdict

Key = tuple[str, int, frozenset[str]]


class AnswersFile(PairJudge):
    """Reads who preferred what from a file.

    A row has `id` (of the prompt), `models` (two names of the evaluation's) and `preferred` (one of them, or "tie");
    `sample` (from 0) where there are several, and any other fields, such as `labeler`. Several verdicts on one pair
    are a majority vote, and a tie where there is none. Rows about models or prompts that are not compared are ignored;
    a pair without a row is a failure of this judge, see `preference.on_failure`.
    """

    remembered = False

    def __init__(self, path: str) -> None:
        """
        Args:
            path: JSON lines, CSV or another format of the project's.
        """
        self.path = path
        self._votes: dict[Key, list[str]] = {}

    def check(self, context: EvaluationContext, key: str) -> None:
        ids = {p.id for p in context.prompts}
        self._votes = {}
        known = 0
        for record in read_records(self.path, f"{key}.path"):
            name, models, preferred, sample = _parsed(record)
            known += name in ids
            self._votes.setdefault((name, sample, models), []).append(preferred)
        if not known:
            raise UserError(f"{key}.path: {self.path} is about none of the {len(ids)} prompts; `id` must be theirs.")

    def content(self) -> str:
        return hashlib.sha256(Path(self.path).expanduser().read_bytes()).hexdigest()

    def compare(self, pairs: Sequence[Pair]) -> Sequence[Verdict | None]:
        return [self._verdict(pair) for pair in pairs]

    def _verdict(self, pair: Pair) -> Verdict | None:
        models = frozenset((pair.first.model, pair.second.model))
        votes = self._votes.get((pair.first.id, pair.first.sample, models))
        if not votes:
            return None
        first, second = votes.count(pair.first.model), votes.count(pair.second.model)
        return "tie" if first == second else "first" if first > second else "second"


def _parsed(record: Record) -> tuple[str, frozenset[str], str, int]:
    models, preferred, sample = record.require("models"), record.require("preferred"), record.fields.get("sample", 0)
    if isinstance(models, str):  # a CSV cell
        models = models.split()
    if not isinstance(models, list) or len(models) != 2 or len({str(m) for m in models}) != 2:
        raise record.error("`models` must name two models.")
    names = frozenset(str(m) for m in models)
    if preferred != "tie" and preferred not in names:
        raise record.error(f"`preferred` is {preferred!r}; it must be one of {sorted(names)} or 'tie'.")
    try:
        return str(record.require("id")), names, str(preferred), int(str(sample))
    except ValueError as error:
        raise record.error(f"`sample` is {sample!r}; it must be a whole number from 0 on.") from error
