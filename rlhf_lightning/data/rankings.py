"""Records to rankings: K responses with ranks or scores, or pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlhf_lightning.data.fields import parse_about, parse_messages, parse_prompt, parse_response, parse_text
from rlhf_lightning.data.json_rows import json_type
from rlhf_lightning.data.kinds import PromptLike, Ranking
from rlhf_lightning.data.records import Record

_TURN = "\n\nAssistant:"
_OTHER_TURN = "\n\nHuman:"
Pair = tuple[PromptLike, tuple[str, str]]


def parse_ranking(record: Record) -> Ranking:
    r"""A ranking from `prompt`, `responses` and `ranks` or `scores`; or from a `chosen`/`rejected` pair.

    A pair without `prompt` shares it: the leading messages that are equal, or of two strings in hh-rlhf's
    form what is equal up to the last "\n\nAssistant:".

    Raises:
        UserError: The row is broken, or teaches nothing because all responses are tied or the same.
    """
    is_pair = record.has("chosen") or record.has("rejected")
    if is_pair and record.has("responses"):
        raise record.error("has both `responses` and `chosen`/`rejected`; keep the one that is meant.")
    if is_pair:
        prompt, responses = _pair(record)
        used = ["prompt", "chosen", "rejected"]
        return Ranking(prompt, responses, (1, 2), **parse_about(record, used))
    prompt = parse_prompt(record)
    several = _responses(record, prompt)
    ranks = _ranks(record, len(several))
    return Ranking(prompt, several, ranks, **parse_about(record, ["prompt", "responses", "ranks", "scores"]))


def _responses(record: Record, prompt: PromptLike) -> tuple[str, ...]:
    value = record.require("responses")
    if not isinstance(value, list):
        raise record.error(f"`responses` is {json_type(value)}; it must be a list of at least 2 responses.")
    if len(value) < 2:
        raise record.error(f"`responses` has K = {len(value)}; at least 2 are needed to rank. Delete the row.")
    responses = tuple(parse_response(record, f"responses[{i}]", r, prompt) for i, r in enumerate(value))
    if len(set(responses)) == 1:
        raise record.error("`responses` are all the same text, so there is nothing to learn. Delete the row.")
    return responses


def _ranks(record: Record, count: int) -> tuple[int, ...]:
    if not record.has("ranks") and not record.has("scores"):
        raise record.error("`ranks` is missing (1 is best, equal numbers are ties); add it, or `scores`.")
    from_scores = _parse_scores(record, count) if record.has("scores") else None
    given = _parse_ranks(record, count) if record.has("ranks") else None
    # Ranks may tie what scores tell apart (a judge's noise), but not turn it around.
    if given and from_scores and _turned_around(given, from_scores):
        raise record.error(
            "`ranks` and `scores` contradict each other (ranks: 1 is best; scores: higher is better); "
            "correct one or leave it out."
        )
    ranks = given or from_scores or ()
    if len(set(ranks)) == 1:
        name = "ranks" if given else "scores"
        raise record.error(f"`{name}` ties all responses, so there is nothing to learn. Delete the row.")
    return ranks


def _parse_ranks(record: Record, count: int) -> tuple[int, ...]:
    values = _list_of(record, "ranks", count)
    ranks = [r for r in values if isinstance(r, int) and not isinstance(r, bool) and r >= 1]
    if len(ranks) != len(values):
        raise record.error("`ranks` must be whole numbers from 1 (1 is best, equal numbers are ties).")
    return _dense(ranks)


def _parse_scores(record: Record, count: int) -> tuple[int, ...]:
    values = _list_of(record, "scores", count)
    scores = []
    for i, value in enumerate(values):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise record.error(f"`scores[{i}]` is {json_type(value)}; scores must be numbers.")
        if isinstance(value, float) and not math.isfinite(value):
            raise record.error(f"`scores[{i}]` is {value}; scores must be finite numbers.")
        scores.append(-value)
    return _dense(scores)


def _list_of(record: Record, name: str, count: int) -> list[object]:
    value = record.fields[name]
    if not isinstance(value, list):
        raise record.error(f"`{name}` is {json_type(value)}; it must be a list with one number per response.")
    if len(value) != count:
        raise record.error(f"`{name}` has {len(value)} entries for {count} responses; give one per response.")
    return value


def _dense(values: Sequence[float]) -> tuple[int, ...]:
    position = {value: i for i, value in enumerate(sorted(set(values)), start=1)}
    return tuple(position[value] for value in values)


def _turned_around(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    both = list(zip(a, b, strict=True))
    return any(x[0] < y[0] and x[1] > y[1] for x in both for y in both)


def _pair(record: Record) -> Pair:
    chosen, rejected = record.require("chosen"), record.require("rejected")
    if chosen == rejected:
        raise record.error("`chosen` and `rejected` are the same, so there is nothing to learn. Delete the row.")
    if record.has("prompt"):
        prompt = parse_prompt(record)
        pair = (
            prompt,
            tuple(parse_response(record, n, record.fields[n], prompt) for n in ("chosen", "rejected")),
        )
    elif isinstance(chosen, list) and isinstance(rejected, list):
        pair = _split_messages(record, chosen, rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        pair = _split_dialogue(record, chosen, rejected)
    else:
        raise record.error(
            f"`chosen` is {json_type(chosen)} and `rejected` is {json_type(rejected)}; without `prompt` "
            "both must be whole dialogues: strings, or lists of messages."
        )
    if pair[1][0] == pair[1][1]:
        raise record.error("`chosen` and `rejected` are the same text, so there is nothing to learn. Delete the row.")
    return pair[0], (pair[1][0], pair[1][1])


def _split_messages(record: Record, chosen: list[object], rejected: list[object]) -> Pair:
    a, b = parse_messages(record, "chosen", chosen), parse_messages(record, "rejected", rejected)
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    if not shared or a[shared - 1].role == "assistant":
        raise record.error("`chosen` and `rejected` share no prompt before the responses; add `prompt`.")
    prompt = a[:shared]
    for name, rest in (("chosen", a[shared:]), ("rejected", b[shared:])):
        if len(rest) != 1 or rest[0].role != "assistant":
            raise record.error(f"`{name}` has {len(rest)} messages after the shared prompt, not one by the assistant.")
    return prompt, (a[-1].content, b[-1].content)


def _split_dialogue(record: Record, chosen: str, rejected: str) -> Pair:
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    end = chosen.rfind(_TURN, 0, min(len(chosen), len(rejected)) if shared is None else shared)
    if end < 0:
        raise record.error(
            f"has no `prompt`, and `chosen` and `rejected` share no beginning that ends with {_TURN!r}; add `prompt`."
        )
    end += len(_TURN)
    prompt = parse_text(record, "chosen", chosen[:end])
    if prompt.strip() == _TURN.strip():
        raise record.error("`chosen` begins with the response; the prompt is missing.")
    responses = []
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        response = parse_text(record, f"{name} (after the shared prompt)", text[end:].strip())
        if _OTHER_TURN in response:
            raise record.error(f"`{name}` goes on after its first response; only the last turn may differ.")
        responses.append(response)
    return prompt, (responses[0], responses[1])
