"""A program as a judge: JSON lines in, JSON lines out. Whatever can be asked from a script, such as an LLM, fits."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.judges import Answer, JudgeError, Pair, PairJudge, ScoringJudge
from rlhf_lightning.text_reward_models import shown


class CommandJudge(PairJudge):
    """Starts a command for every batch of pairs.

    It reads a line of JSON for each pair, `{"id", "sample", "prompt", "first", "second", "fields"}`, the last being the
    other fields of the prompt's row, and writes one for each, in their order: `{"preferred": "first"}`, or "second" or
    "tie". It is not told which model wrote what. What it writes to standard error is shown if it fails.
    """

    def __init__(self, command: str | list[str], batch_size: int = 64, timeout_s: float = 600.0) -> None:
        """
        Args:
            command: Program and arguments; no shell is involved.
            batch_size: Pairs of one call.
            timeout_s: Seconds that one call may take.
        """
        self.command = _words(command)
        self.batch_size, self.timeout_s = batch_size, timeout_s

    def check(self, context: EvaluationContext, key: str) -> None:
        _check(self.command, self.batch_size, self.timeout_s, key)

    def compare(self, pairs: Sequence[Pair]) -> Sequence[Any]:
        questions = [
            {
                "id": pair.first.id,
                "sample": pair.first.sample,
                "prompt": pair.prompt,
                "first": pair.first.response,
                "second": pair.second.response,
                "fields": pair.fields,
            }
            for pair in pairs
        ]
        return _asked(self.command, questions, "preferred", self.timeout_s)


class CommandScorer(ScoringJudge):
    """The same for a program that gives every response a number of its own.

    It reads `{"id", "sample", "prompt", "response", "ended", "fields"}` and writes `{"score": 0.5}`.
    """

    remembered = True

    def __init__(
        self, command: str | list[str], tie_margin: float = 0.0, batch_size: int = 64, timeout_s: float = 600.0
    ) -> None:
        """
        Args:
            command: Program and arguments; no shell is involved.
            tie_margin: Scores that differ by no more are a tie.
            batch_size: Responses of one call.
            timeout_s: Seconds that one call may take.
        """
        self.command, self.tie_margin = _words(command), tie_margin
        self.batch_size, self.timeout_s = batch_size, timeout_s

    def check(self, context: EvaluationContext, key: str) -> None:
        _check(self.command, self.batch_size, self.timeout_s, key)

    def score(self, answers: Sequence[Answer]) -> Sequence[Any]:
        questions = [
            {
                "id": answer.id,
                "sample": answer.sample,
                "prompt": answer.prompt,
                "response": answer.response,
                "ended": answer.ended,
                "fields": answer.fields,
            }
            for answer in answers
        ]
        return _asked(self.command, questions, "score", self.timeout_s)


def _words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


def _check(command: list[str], batch_size: int, timeout_s: float, key: str) -> None:
    check_number(f"{key}.batch_size", batch_size, at_least=1)
    check_number(f"{key}.timeout_s", timeout_s, above=0)
    if not command or shutil.which(command[0]) is None:
        raise UserError(
            f"{key}.command: there is no program {(command or [''])[0]!r}. Check its path and that it may run."
        )


def _asked(command: list[str], questions: list[dict[str, Any]], field: str, timeout_s: float) -> list[Any]:
    """The field of every answer.

    Raises:
        JudgeError: It cannot be run, fails, takes too long or writes something else.
    """
    text = "".join(json.dumps(question, default=str) + "\n" for question in questions)
    try:
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise JudgeError(f"took more than {timeout_s:g} s for {len(questions)} questions") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"could not be run: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-200:] or "nothing on standard error"
        raise JudgeError(f"ended with status {done.returncode} ({said})")
    lines = [line for line in done.stdout.split("\n") if line.strip()]
    if len(lines) != len(questions):
        raise JudgeError(f"wrote {len(lines)} lines for {len(questions)} questions")
    return [_field(line, field) for line in lines]


def _field(line: str, field: str) -> Any:
    try:
        row = json.loads(line)
        return row[field]
    except (ValueError, KeyError, TypeError):
        # As it is: the verdict that it is none comes with the prompt's name.
        return f"{shown(line)} (a line of JSON with {field!r} is wanted)"
