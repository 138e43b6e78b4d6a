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
from rlhf_lightning.ppo.reward_terms import describe
from rlhf_lightning.text_reward_models import shown

Item = TypeVar("Item", Answer, Pair)
Said = TypeVar("Said")

KEPT = ": what it has said already is kept"
WAY_OUT = "Correct it and start again{}. Or leave such pairs out with `preference.on_failure: exclude`."


def scores_of(
    judge: ScoringJudge, name: str, answers: Sequence[Answer], on_failure: OnTrouble, directory: Path
) -> list[float | None]:
    """A finite number for each response, None where the judge has none and the settings allow that.

    Args:
        judge: Who scores.
        name: What the settings call it.
        answers: To be scored.
        on_failure: Whether a response without a number stops the evaluation.
        directory: Where numbers of judges that are remembered are kept; a file per judge.

    Raises:
        JudgeError: It failed, or gave something else.
    """
    return _asked(judge, judge.score, name, answers, _number, on_failure, directory)


def verdicts_of(
    judge: PairJudge, name: str, pairs: Sequence[Pair], on_failure: OnTrouble, directory: Path
) -> list[Verdict | None]:
    """A verdict for each pair, None where the judge has none and the settings allow that; otherwise as `scores_of`."""
    return _asked(judge, judge.compare, name, pairs, _verdict, on_failure, directory)


def _asked(
    judge: ScoringJudge | PairJudge,
    call: Callable[[Sequence[Item]], Sequence[Any]],
    name: str,
    items: Sequence[Item],
    checked: Callable[[Any], Said],
    on_failure: OnTrouble,
    directory: Path,
) -> list[Said | None]:
    """Batch by batch; what is on disk already is not asked for again."""
    memory = Judgements(directory / f"{name}.jsonl", judge) if judge.remembered else None
    found: dict[str, Said | None] = {}
    if memory:
        found |= {key: checked(said) for key, said in memory.known.items()}
    keys = [memory.key(item) if memory else str(i) for i, item in enumerate(items)]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}  # equal questions are asked once
    todo = sorted(i for key, i in first.items() if key not in found)
    done = len(first) - len(todo)
    with tqdm(total=len(first), initial=done, desc=f"judge {name}", unit="question", disable=not todo, delay=1) as bar:
        for start in range(0, len(todo), judge.batch_size):
            part = todo[start : start + judge.batch_size]
            asked = [items[i] for i in part]
            said = _ask(call, asked, checked, on_failure)
            answers = [None if isinstance(answer, _Wrong) else answer for answer in said]
            if memory:  # before anything else: each may have cost money
                memory.append(asked[: len(said)], [keys[i] for i in part[: len(said)]], answers)
            for item, answer in zip(asked, said, strict=False):
                if isinstance(answer, _Wrong) and on_failure == "error":
                    raise _error(f"judges.{name}", str(answer), item, judge.remembered) from answer
            found |= {keys[i]: answer for i, answer in zip(part, answers, strict=True)}
            bar.update(len(part))
    return [found[key] for key in keys]


class Judgements:
    """What a judge has said, on disk, found again by what was judged and by whom."""

    def __init__(self, path: Path, judge: ScoringJudge | PairJudge) -> None:
        self.path = path
        self._judge = json.dumps(describe(judge), sort_keys=True, default=str)
        self.known: dict[str, Any] = {}
        valid = _is_verdict if isinstance(judge, PairJudge) else _is_number
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                row = _row(line) if line.endswith(b"\n") else {}  # a kill cut it off
                if "key" in row and valid(row.get("said")):
                    self.known[row["key"]] = row["said"]

    def key(self, item: Answer | Pair) -> str:
        """By content: a response that was made anew is judged anew."""
        answers = [item] if isinstance(item, Answer) else [item.first, item.second]
        parts: list[Any] = [self._judge, answers[0].prompt, answers[0].fields]
        parts += [[answer.response, answer.ended] for answer in answers]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:32]

    def append(self, items: Sequence[Answer | Pair], keys: Sequence[str], said: Sequence[Any]) -> None:
        """Add what was said; failures are not remembered, so that they can be tried again."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
        lines = ["\n"] if torn else []
        for item, key, answer in zip(items, keys, said, strict=True):
            if answer is not None:
                first, last = (item, item) if isinstance(item, Answer) else (item.first, item.second)
                about = {"id": first.id, "sample": first.sample, "first": first.model, "second": last.model}
                lines.append(json.dumps({"key": key, "said": answer} | about) + "\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())


class _Wrong(Exception):
    """What is wrong with an answer of a judge."""


def _ask(
    call: Callable[[Sequence[Item]], Sequence[Any]],
    items: Sequence[Item],
    checked: Callable[[Any], Said],
    on_failure: OnTrouble,
) -> list[Said | _Wrong]:
    """Ask about all together; if that fails, about each alone, so that one of them cannot spoil the others.

    Returns:
        What was said to the items, or what is wrong with it; where that stops the evaluation, only as far as it got.
    """
    try:
        said = _called(call, items)
    except _Wrong as wrong:
        if len(items) == 1:
            return [wrong]
        found: list[Said | _Wrong] = []
        for item in items:
            found += _ask(call, [item], checked, on_failure)
            if on_failure == "error" and isinstance(found[-1], _Wrong):
                break
        return found
    return [_judged(answer, checked) for answer in said]


def _judged(answer: Any, checked: Callable[[Any], Said]) -> Said | _Wrong:
    if answer is None:
        return _Wrong("gave no answer")
    try:
        return checked(answer)
    except _Wrong as wrong:
        return wrong


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


def _error(key: str, wrong: str, item: Answer | Pair, remembered: bool) -> JudgeError:
    answer = item if isinstance(item, Answer) else item.first
    way_out = WAY_OUT.format(KEPT if remembered else "")
    return JudgeError(f"{key}: the judge {wrong}, for the prompt {answer.id!r} ({shown(answer.prompt)}). {way_out}")


def _number(said: Any) -> float:
    if not _is_number(said):
        raise _Wrong(f"answered {shown(said)}, which is no finite number")
    return float(said)


def _verdict(said: Any) -> Verdict:
    if not _is_verdict(said):
        raise _Wrong(f"answered {shown(said)}, which is none of first, second and tie")
    verdict: Verdict = said
    return verdict


def _is_number(said: Any) -> bool:
    return isinstance(said, int | float) and not isinstance(said, bool) and math.isfinite(said)


def _is_verdict(said: Any) -> bool:
    return isinstance(said, str) and said in VERDICTS


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
