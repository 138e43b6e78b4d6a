"""The rewards of a run as they are configured: which there are, what each is called and how much it counts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import ismodule
from typing import Any, TypeAlias

from rlhf_lightning.artefacts import Source, open_source
from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError

KEY = "model.init_args.reward"
MODEL = "model"
"""Name of the reward model in `model.init_args.reward_from`, among several rewards."""

RewardFunction: TypeAlias = Callable[..., Sequence[float]]
"""`function(prompts, responses)`, or `function(prompts, responses, rows)`, of three lists of equal length: texts, texts
without special tokens, and dictionaries with the other fields of the prompt's row. It returns one finite number for
each response. It must depend on nothing else, or a resumed run ends elsewhere."""


@dataclass(frozen=True)
class RewardTerm:
    """One of several rewards: a Python function or class, or a reward artefact."""

    function: RewardFunction | None = None
    """`my_module.my_function`, or `{class_path: my_module.MyReward, init_args: {...}}`, whose objects are called."""
    reward_from: str | None = None
    """A reward artefact, of any size and with any tokenizer: it reads the decoded text with its own prompt template."""
    name: str | None = None
    """Metric `rollout/reward/<name>`; by default the function's or class's name, or the artefact's directory."""
    weight: float = 1.0
    """Factor in the sum that is optimized; 0 only reports it, and below 0 it is a cost."""
    batch_size: int = 64
    """Responses of one call of the function."""


@dataclass(frozen=True)
class NamedTerm:
    """A term whose settings are checked."""

    name: str
    weight: float
    function: RewardFunction | None
    source: Source | None
    batch_size: int
    key: str
    """Where in the configuration it stands."""


def named_terms(
    reward: Sequence[RewardTerm] | RewardFunction | None, has_model: bool, weight: float
) -> list[NamedTerm]:
    """Check what `model.init_args.reward` and `reward_weight` hold, and open the artefacts among it.

    Args:
        reward: As it was configured.
        has_model: Whether there is a `reward_from` beside it.
        weight: Weight of that model.

    Raises:
        UserError: No reward at all, a term that is neither or both, a name that is taken or unfit, a bad weight.
    """
    alone = callable(reward) or isinstance(reward, RewardTerm)
    given: Any = () if reward is None else reward
    given = [given] if alone else list(given)
    terms = [t if isinstance(t, RewardTerm) else RewardTerm(t) for t in given]
    if not terms and not has_model:
        raise UserError(
            "model.init_args.reward_from is missing, and so is model.init_args.reward: there is nothing to optimize. "
            "Give a reward artefact, or a Python function."
        )
    check_number("model.init_args.reward_weight", weight)
    keys = [KEY] if alone else [f"{KEY}[{i}]" for i in range(len(terms))]
    named = [_named(term, key) for term, key in zip(terms, keys, strict=True)]
    taken = {MODEL: "model.init_args.reward_from"} if has_model else {}
    for term in named:
        if term.name in taken:
            raise UserError(
                f"{term.key}: the name {term.name!r} is that of {taken[term.name]}; give each a `name` of its own."
            )
        taken[term.name] = term.key
    if not any(t.weight for t in named) and not (has_model and weight):
        raise UserError(f"{KEY}: every reward has weight 0, so there is nothing to optimize. Give one another weight.")
    return named


def _named(term: RewardTerm, key: str) -> NamedTerm:
    if (term.function is None) == (term.reward_from is None):
        raise UserError(f"{key}: give either `function` or `reward_from`, one of them.")
    if term.function is not None and not callable(term.function):
        raise UserError(f"{key}.function is a {type(term.function).__name__}, which cannot be called.")
    check_number(f"{key}.weight", term.weight)
    check_number(f"{key}.batch_size", term.batch_size, at_least=1)
    source = open_source(term.reward_from, f"{key}.reward_from", ("reward",)) if term.reward_from is not None else None
    name = term.name if term.name is not None else _default_name(term)
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise UserError(f"{key}.name is {name!r}; give one of letters, digits, `_`, `.` and `-`: it names a metric.")
    return NamedTerm(name, term.weight, term.function, source, term.batch_size, key)


def _default_name(term: RewardTerm) -> str:
    if term.reward_from is not None:
        directory = term.reward_from.rstrip("/").removesuffix("/final")
        return re.sub(r"[^\w.-]", "_", directory.rpartition("/")[2], flags=re.ASCII)
    function: Any = term.function
    while isinstance(function, partial):
        function = function.func
    return re.sub(r"[^\w.-]", "", getattr(function, "__name__", type(function).__name__), flags=re.ASCII)


def reward_identity(terms: Sequence[NamedTerm]) -> dict[str, Any]:
    """What a resumed run compares: names, weights, functions and their settings, but neither code nor batches.

    Code may change, so that a function that failed can be corrected. Artefacts are compared by their content.
    """
    return {t.name: {"weight": t.weight} | ({"function": describe(t.function)} if t.function else {}) for t in terms}


def describe(function: Any) -> Any:
    """A function by its import path; an object by its class and its public attributes, as plain values.

    >>> describe(describe)
    'rlhf_lightning.ppo.reward_terms.describe'
    """
    if isinstance(function, partial):
        return {"partial": describe(function.func), "args": _plain([*function.args, function.keywords])}
    if hasattr(function, "__qualname__"):
        owner = getattr(function, "__self__", None)  # a bound method's object
        path = f"{function.__module__}.{function.__qualname__}"
        return path if owner is None or ismodule(owner) else {path: describe(owner)}
    attributes = sorted(getattr(function, "__dict__", {}).items())
    public = {name: _plain(value) for name, value in attributes if not name.startswith("_")}
    return {"class_path": f"{type(function).__module__}.{type(function).__qualname__}", "attributes": public}


def _plain(value: Any) -> Any:
    """A value that is the same in every process that holds an equal one: no addresses, no order of sets."""
    if value is None or isinstance(value, bool | int | float | str):
        return value if len(str(value)) <= 200 else f"sha256:{hashlib.sha256(str(value).encode()).hexdigest()}"
    if isinstance(value, dict):
        value = [[_plain(k), _plain(v)] for k, v in value.items()]
    elif isinstance(value, set | frozenset):
        value = sorted((_plain(v) for v in value), key=repr)
    elif isinstance(value, list | tuple):
        value = [_plain(v) for v in value]
    else:
        value = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return value if len(repr(value)) <= 2000 else f"sha256:{hashlib.sha256(repr(value).encode()).hexdigest()}"
