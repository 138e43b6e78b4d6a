"""Asking a judge: about every response or every pair, with whatever it does wrong caught and named."""

from __future__ import annotations

import hashlib
import json
import math
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from rlhf_lightning.evaluation.judges import VERDICTS, Answer, JudgeError, Pair, PairJudge, ScoringJudge, Verdict
from rlhf_lightning.evaluation.settings import OnTrouble
from rlhf_lightning.ppo.reward_functions import shown
from rlhf_lightning.ppo.reward_terms import describe

Item = TypeVar("Item", Answer, Pair)
Said = TypeVar("Said")

WAY_OUT = (
    "Correct it and start again: what it has said already is kept. Or leave such pairs out with "
    "`preference.on_failure: exclude`."
)


def scores_of(judge: ScoringJudge, name: str, answers: Sequence[Answer], on_failure: OnTrouble) -> list[float | None]:
    """A finite number for each response, None where the judge has none and the settings allow that.

    Raises:
        JudgeError: It failed, or gave something else.
    """
    return _ask(judge.score, f"judges.{name}", answers, _number, on_failure)


def verdicts_of(
    judge: PairJudge, name: str, pairs: Sequence[Pair], on_failure: OnTrouble, directory: Path
) -> list[Verdict | None]:
    """A verdict for each pair; those that are on disk already are not asked for again.

    Args:
        judge: Who compares.
        name: What the settings call it.
        pairs: To be compared.
        on_failure: Whether a pair without a verdict stops the evaluation.
        directory: Where verdicts are kept; a file per judge.

    Raises:
        JudgeError: It failed, or said something else.
    """
    memory = VerdictFile(directory / f"{name}.jsonl", judge) if judge.remembered else None
    known = memory.known if memory else {}
    keys = [memory.key(pair) if memory else str(i) for i, pair in enumerate(pairs)]
    todo = [i for i, key in enumerate(keys) if key not in known]
    found: dict[str, Verdict | None] = dict(known)
    with tqdm(
        total=len(pairs), initial=len(pairs) - len(todo), desc=f"judge {name}", unit="pair", disable=not todo
    ) as bar:
        for start in range(0, len(todo), judge.batch_size):
            part = todo[start : start + judge.batch_size]
            asked = [pairs[i] for i in part]
            said = _ask(judge.compare, f"judges.{name}", asked, _verdict, on_failure)
            found |= {keys[i]: verdict for i, verdict in zip(part, said, strict=True)}
            if memory:
                memory.append(asked, [keys[i] for i in part], said)
            bar.update(len(part))
    return [found[key] for key in keys]


class VerdictFile:
    """Verdicts on disk, found again by what was judged and by whom."""

    def __init__(self, path: Path, judge: PairJudge) -> None:
        self.path = path
        self._judge = json.dumps(describe(judge), sort_keys=True, default=str)
        self.known: dict[str, Verdict] = {}
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n") and (row := _json(line)):
                    self.known[row["key"]] = row["verdict"]

    def key(self, pair: Pair) -> str:
        """By content: a response that was made anew is judged anew."""
        parts: list[Any] = [self._judge, pair.prompt, pair.fields, pair.first.response, pair.second.response]
        parts += [pair.first.ended, pair.second.ended]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:32]

    def append(self, pairs: Sequence[Pair], keys: Sequence[str], verdicts: Sequence[Verdict | None]) -> None:
        """Add verdicts; failures are not remembered, so that they can be tried again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size
        lines = ["\n"] if torn else []
        for pair, key, verdict in zip(pairs, keys, verdicts, strict=True):
            if verdict is not None:
                about = {"id": pair.first.id, "sample": pair.first.sample}
                models = {"first": pair.first.model, "second": pair.second.model}
                lines.append(json.dumps({"key": key, "verdict": verdict} | about | models) + "\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())


class _Wrong(Exception):
    """What is wrong with an answer of a judge."""


def _ask(
    call: Callable[[Sequence[Item]], Sequence[Any]],
    key: str,
    items: Sequence[Item],
    checked: Callable[[Any], Said],
    on_failure: OnTrouble,
) -> list[Said | None]:
    """Ask about all together; if that fails, about each alone, so that one of them cannot spoil the others."""
    try:
        said = _called(call, items)
    except _Wrong as wrong:
        if len(items) > 1:
            return [answer for item in items for answer in _ask(call, key, [item], checked, on_failure)]
        if on_failure == "exclude":
            return [None]
        raise _error(key, str(wrong), items[0]) from wrong
    found: list[Said | None] = []
    for item, answer in zip(items, said, strict=True):
        try:
            if answer is None:
                raise _Wrong("gave no answer")
            found.append(checked(answer))
        except _Wrong as wrong:
            if on_failure == "error":
                raise _error(key, str(wrong), item) from wrong
            found.append(None)
    return found


def _called(call: Callable[[Sequence[Item]], Sequence[Any]], items: Sequence[Item]) -> list[Any]:
    try:
        said = call(items)
    except JudgeError as error:
        raise _Wrong(str(error)) from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise _Wrong(f"raised {type(error).__name__}: {' '.join(str(error).split())[:150]} ({place})") from error
    said = said.tolist() if hasattr(said, "tolist") else said
    if isinstance(said, str) or not isinstance(said, Sequence) or len(said) != len(items):
        what = f"{len(said)} answers" if isinstance(said, Sequence) else f"a {type(said).__name__}"
        raise _Wrong(f"gave {what} to {len(items)} questions")
    return list(said)


def _error(key: str, wrong: str, item: Answer | Pair) -> JudgeError:
    answer = item if isinstance(item, Answer) else item.first
    return JudgeError(f"{key}: the judge {wrong}, for the prompt {answer.id!r} ({shown(answer.prompt)}). {WAY_OUT}")


def _number(said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise _Wrong(f"answered {shown(said)}, which is no finite number")
    return float(said)


def _verdict(said: Any) -> Verdict:
    for verdict in VERDICTS:
        if said == verdict:
            return verdict
    raise _Wrong(f"answered {shown(said)}, which is none of first, second and tie")


def _json(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.get("verdict") in VERDICTS and "key" in row else None
