"""Rewards that are Python functions: called in batches, and blamed by name for what they return."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.prompts import PromptRow
from rlhf_lightning.ppo.reward_terms import RewardFunction
from rlhf_lightning.prompt_template import plain_text
from rlhf_lightning.text_reward_models import RewardError, shown

_LARGEST = 3.4e38
"""Scores are float32."""


class _Broken(Exception):
    """What a call did wrong, and the row it is known to concern."""

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(reason)
        self.row = row


class FunctionReward:
    """Calls a function with texts, and checks that it gives a finite number for each."""

    def __init__(self, function: RewardFunction, key: str, name: str, batch_size: int) -> None:
        """
        Args:
            function: See `RewardFunction`.
            key: Where in the configuration it stands.
            name: What it is called in metrics.
            batch_size: Responses of one call.

        Raises:
            UserError: It takes other arguments.
        """
        self.function, self.key, self.name, self.batch_size = function, key, name, batch_size
        self._takes_rows = _takes_rows(function, key)

    def score(
        self, rows: Sequence[PromptRow], responses: Sequence[str], ended: Sequence[bool], on_rows: Callable[[int], None]
    ) -> list[float]:
        """One number for each response.

        Args:
            rows: The prompts.
            responses: Their texts.
            ended: Not passed on: a response that was cut off is penalized by `missing_eos_penalty`.
            on_rows: Called with the number of rows done.

        Raises:
            RewardError: The function raised, or did not return finite numbers; names a prompt and its response.
        """
        scores: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            scores += self._checked(rows[part], responses[part])
            on_rows(len(rows[part]))
        return scores

    def _checked(self, rows: Sequence[PromptRow], responses: Sequence[str]) -> list[float]:
        try:
            return self._call(rows, responses)
        except _Broken as broken:
            row, alone = broken.row, broken
            if row is None:  # which one? The first that breaks it on its own
                row, alone = next(self._breaking(rows, responses), (0, broken))
            more = "" if alone.row is not None or alone is not broken or len(rows) == 1 else f", first of {len(rows)}"
            raise RewardError(
                f"{self.key}: the reward {self.name!r} {alone} for the prompt {shown(plain_text(rows[row].prompt))} "
                f"and the response {shown(responses[row])}{more}. Correct it, and go on from the last checkpoint with "
                "--ckpt_path last."
            ) from (alone.__cause__ or alone)

    def _breaking(self, rows: Sequence[PromptRow], responses: Sequence[str]) -> Iterator[tuple[int, _Broken]]:
        for i, (row, response) in enumerate(zip(rows, responses, strict=True)):
            try:
                self._call([row], [response])
            except _Broken as broken:
                yield i, broken

    def _call(self, rows: Sequence[PromptRow], responses: Sequence[str]) -> list[float]:
        prompts = [plain_text(row.prompt) for row in rows]
        extra = {"rows": [dict(row.fields) for row in rows]} if self._takes_rows else {}
        try:
            returned = self.function(prompts, list(responses), **extra)
        except Exception as error:
            raise _Broken(f"raised {_brief(error)}") from error
        return _numbers(returned, len(rows))


def _takes_rows(function: RewardFunction, key: str) -> bool:
    try:
        # A torch module's own call takes anything and hands it on.
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):  # of some builtins there is none
        return False
    kinds = {p.kind for p in signature.parameters.values()}
    takes_rows = "rows" in signature.parameters or inspect.Parameter.VAR_KEYWORD in kinds
    try:
        signature.bind([], [], **({"rows": []} if takes_rows else {}))
    except TypeError as error:
        raise UserError(
            f"{key}: {getattr(function, '__name__', type(function).__name__)}{signature} cannot be called as "
            f"reward(prompts, responses) or reward(prompts, responses, rows=...): {error}."
        ) from error
    return takes_rows


def _numbers(returned: Any, count: int) -> list[float]:
    """What a function returned, as floats; arrays and tensors will do."""
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise _Broken(f"returned a {type(returned).__name__} and not a list of {count} numbers")
    if len(values) != count:
        raise _Broken(f"returned {len(values)} numbers for {count} responses")
    return [_number(value, row) for row, value in enumerate(values)]


def _number(value: Any, row: int) -> float:
    if getattr(value, "ndim", None) == 0:  # of NumPy or torch
        value = value.item()
    if not isinstance(value, int | float):
        raise _Broken(f"returned {shown(value)} ({type(value).__name__}), which is no number,", row)
    if not abs(value) <= _LARGEST:
        raise _Broken(f"returned {shown(value)}, which is not finite in float32,", row)
    return float(value)


def _brief(error: Exception) -> str:
    """Type, message and place of an exception, on one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    message = f": {message[:100]}" if message else ""
    return f"{type(error).__name__}{message} ({Path(frame.filename).name}, line {frame.lineno})"
