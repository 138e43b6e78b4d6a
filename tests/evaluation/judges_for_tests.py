"""Judges that behave, and judges that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_lightning.evaluation.judges import Answer, Pair, PairJudge, ScoringJudge


class Longer(ScoringJudge):
    """The longer response wins."""

    def score(self, answers: Sequence[Answer]) -> Sequence[float | None]:
        return [float(len(a.response)) for a in answers]


class NoNumber(ScoringJudge):
    """Knows nothing."""

    def score(self, answers: Sequence[Answer]) -> Sequence[float | None]:
        return [float("nan")] * len(answers)


class LongerOfTwo(PairJudge):
    """The same, asked about pairs; counts its questions."""

    asked = 0

    def compare(self, pairs: Sequence[Pair]) -> Sequence[Any]:
        type(self).asked += len(pairs)
        lengths = [(len(p.first.response), len(p.second.response)) for p in pairs]
        return ["tie" if a == b else "first" if a > b else "second" for a, b in lengths]


class FirstWins(PairJudge):
    """Prefers whatever it sees first."""

    def compare(self, pairs: Sequence[Pair]) -> Sequence[Any]:
        return ["first"] * len(pairs)


class Broken(PairJudge):
    """Says whatever it is told to about prompts with a question mark, and raises for `error`."""

    def __init__(self, said: Any = None) -> None:
        self.said = said

    def compare(self, pairs: Sequence[Pair]) -> Sequence[Any]:
        if self.said == "error" and any("?" in p.prompt for p in pairs):
            raise ConnectionError("no route to the judge")
        return [self.said if "?" in p.prompt else "tie" for p in pairs]
