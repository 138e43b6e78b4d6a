"""Rewards that cannot be: each refused with one message that names the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bad_inputs.refusal import Refusal
from tests.conftest import TinyRuns

HERE = "tests.ppo.reward_examples"
KEY = "model.init_args.reward"
LETTERS = f"{HERE}.letters"
NO_MODEL = ("--model.init_args.reward_from", "null")

CASES: list[tuple[str, Any, list[str]]] = [
    ("no such module", "no_such_module.reward", ["No module named 'no_such_module'"]),
    ("no such function", f"{HERE}.nope", [f"module '{HERE}' has no attribute 'nope'"]),
    ("no such function in a list", [{"function": f"{HERE}.nope"}], ["has no attribute 'nope'"]),
    ("no such option", {"class_path": f"{HERE}.Brevity", "init_args": {"u": 3}}, ["Option 'u' is not accepted"]),
    ("wrong option", {"class_path": f"{HERE}.Brevity", "init_args": {"characters": "a"}}, ["characters", "int"]),
    ("cannot be called", {"class_path": f"{HERE}.Path"}, ["instantiates into callable"]),
    ("a function as a class", {"class_path": LETTERS}, ["give the import path of a function alone"]),
    ("an entry of a list alone", {"function": LETTERS}, ["give the import path of a function alone"]),
    ("unknown key", [{"function": LETTERS, "wight": 1}], ["wight", "RewardTerm has no such option"]),
    ("not a number", [{"function": LETTERS, "weight": "heavy"}], ["weight", "expected float"]),
    ("weight nan", [{"function": LETTERS, "weight": float("nan")}], [f"{KEY}[0].weight is nan", "finite"]),
    ("weight inf", [{"function": LETTERS, "weight": float("inf")}], [f"{KEY}[0].weight is inf", "finite"]),
    ("two of a name", [{"function": LETTERS}, {"function": LETTERS}], [f"{KEY}[1]", "'letters'", f"of {KEY}[0]"]),
    ("the model's name", [{"function": LETTERS, "name": "model"}], ["'model'", "reward_from"]),
    ("neither", [{"weight": 1.0}], [f"{KEY}[0]: give either `function` or `reward_from`"]),
    ("no artefact", [{"reward_from": "nowhere"}], [f"{KEY}[0].reward_from: 'nowhere' is not a reward model"]),
]


@pytest.mark.parametrize(("reward", "parts"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_refused(refused: Refusal, reward: Any, parts: list[str]) -> None:
    given = reward if isinstance(reward, str) else json.dumps(reward).replace("NaN", ".nan").replace("Infinity", ".inf")
    refused("ppo", f"--{KEY}", given, parts=[KEY, *parts])


def test_no_reward_at_all(refused: Refusal) -> None:
    refused("ppo", *NO_MODEL, parts=["model.init_args.reward_from is missing", "nothing to optimize"])


def test_weights_that_leave_nothing(refused: Refusal) -> None:
    refused("ppo", "--model.init_args.reward_weight", "0", parts=["every reward has weight 0"])
    refused("ppo", "--model.init_args.reward_weight", ".nan", parts=["model.init_args.reward_weight is nan"])


def test_the_weight_of_a_model_that_there_is_not(refused: Refusal) -> None:
    term = json.dumps([{"function": "tests.ppo.reward_examples.letters"}])
    weight = ("--model.init_args.reward_weight", "2")
    refused("ppo", *NO_MODEL, f"--{KEY}", term, *weight, parts=["model.init_args.reward_weight is 2", "`weight`"])


def test_another_stages_artefact(refused: Refusal, tiny: TinyRuns) -> None:
    term = json.dumps([{"reward_from": str(tiny.root / "sft")}])
    refused("ppo", f"--{KEY}", term, parts=[f"{KEY}[0].reward_from", "is a supervised (SFT) model, but a reward model"])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "raised KeyError: 'no such thing' (reward_examples.py, line"),
        ("nan", "returned nan"),
        ("inf", "returned inf"),
        ("short", "returned 0 numbers for 1 responses"),
        ("text", "returned 'good' (str), which is no number"),
        ("vector", "returned [1.0] (list), which is no number"),
    ],
)
def test_what_a_function_returns(tiny: TinyRuns, tmp_path: Path, capsys: Any, how: str, said: str) -> None:
    """In the first rollout: one line, the last one, with the prompt and response that broke it."""
    from tests.bad_inputs.refusal import LONGEST, fit

    (tmp_path / "broken").touch()
    init_args = {"file": str(tmp_path / "broken"), "contains": "bee", "how": how}
    reward = json.dumps({"class_path": f"{HERE}.FailsWhere", "init_args": init_args})
    assert fit(tiny.args("ppo", f"function-{how}", *NO_MODEL, f"--{KEY}", reward)) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    message = err.rstrip().splitlines()[-1]
    assert message.startswith(f"error: {KEY}: the reward 'FailsWhere' {said}")
    assert "bee" in message
    assert "and the response '" in message or 'and the response "' in message
    assert len(message) < LONGEST
