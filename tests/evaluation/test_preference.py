"""Judges, verdicts and win rates, on responses that are given."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_lightning.evaluation.sections import read_result
from tests.evaluation.conftest import Evaluations
from tests.evaluation.judges_for_tests import Broken, LongerOfTwo

SHORT, LONG = ["a", "bb", "c"], ["aaa", "bb", ""]
"""Longer by prompt: LONG, neither, SHORT."""


def models(evaluations: Evaluations) -> dict[str, str]:
    return {"short": evaluations.responses("short", SHORT), "long": evaluations.responses("long", LONG)}


@pytest.mark.parametrize("judge", ["Longer", "LongerOfTwo"])
def test_wins_ties_and_losses(evaluations: Evaluations, judge: str) -> None:
    judged = evaluations.judged(judge, models=models(evaluations))
    assert judged["kind"] == ("scores" if judge == "Longer" else "pairs")
    wins = judged["win_rates"]["long"]
    assert wins["win_rate"]["mean"] == 0.5
    assert [wins[k] for k in ("wins", "ties", "losses", "prompts", "inconsistent", "empty")] == [1, 1, 1, 3, 0, 1]
    assert judged["matrix"]["short"]["long"]["win_rate"]["mean"] == 0.5
    assert "short" not in judged["win_rates"]


def test_samples_of_a_prompt_count_as_one_prompt(evaluations: Evaluations) -> None:
    """By sample 2 of 4 are won; by prompt the second prompt's three wins are one."""
    one = evaluations.directory / "one.jsonl"
    texts = {("p0", 0): "a", ("p0", 1): "a", ("p1", 0): "aaa", ("p1", 1): "aaa", ("p2", 0): "aaa", ("p2", 1): "b"}
    one.write_text("".join(json.dumps({"id": i, "sample": s, "response": t}) + "\n" for (i, s), t in texts.items()))
    two = evaluations.directory / "two.jsonl"
    two.write_text("".join(json.dumps({"id": i, "sample": s, "response": "bb"}) + "\n" for i, s in texts))
    judged = evaluations.judged("Longer", models={"two": str(two), "one": str(one)}, samples_per_prompt=2)
    wins = judged["win_rates"]["one"]
    assert (wins["prompts"], wins["comparisons"], wins["wins"]) == (3, 6, 3)
    assert wins["win_rate"]["mean"] == pytest.approx((0 + 1 + 0.5) / 3)


def test_a_judge_that_goes_by_position_is_found_out(evaluations: Evaluations) -> None:
    wins = evaluations.judged("FirstWins", models=models(evaluations))["win_rates"]["long"]
    assert wins["win_rate"]["mean"] == 0.5
    assert wins["inconsistent"] == 2  # the third pair is equal, and nobody was asked


def test_verdicts_are_asked_for_once(evaluations: Evaluations) -> None:
    LongerOfTwo.asked = 0
    evaluations.judged("LongerOfTwo", models=models(evaluations))
    assert LongerOfTwo.asked == 4  # two pairs that differ, in both orders
    third = models(evaluations) | {"third": evaluations.responses("third", ["a", "b", "cc"])}
    file = evaluations.out / "judgements" / "j.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # a kill while the last verdict was written
    evaluations.judged("LongerOfTwo", models=third)
    # The torn one, "bb" and "b", "c" and "cc", "" and "cc"; "aaa" and "a" were asked about before.
    assert LongerOfTwo.asked == 4 + 1 + 2 + 2 + 2
    evaluations.judged("LongerOfTwo", models=third)
    assert LongerOfTwo.asked == 11


@pytest.mark.parametrize(("choice", "rate", "excluded"), [("judge", 0.5, 0), ("lose", 0.5, 0), ("exclude", 0.75, 1)])
def test_empty_responses(evaluations: Evaluations, choice: str, rate: float, excluded: int) -> None:
    wins = evaluations.judged("Longer", models=models(evaluations), preference={"on_empty": choice})["win_rates"][
        "long"
    ]
    assert wins["win_rate"]["mean"] == rate
    assert wins["excluded"]["empty"] == excluded
    assert wins["empty"] == 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("error", "raised ConnectionError: no route to the judge"),
        ("maybe", "answered 'maybe', which is none of first, second and tie"),
        (None, "gave no answer"),
        (1.0, "answered 1.0"),
    ],
)
def test_a_judge_that_fails(
    evaluations: Evaluations, failing: Callable[..., str], said: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = {"j": {"class_path": "tests.evaluation.judges_for_tests.Broken", "init_args": {"said": said}}}
    both = {"one": evaluations.responses("one", SHORT), "two": evaluations.responses("two", ["x", "y", "z"])}
    message = failing(models=both, judges=judge)
    assert words in message
    assert "judges.j" in message
    assert "'p0' ('What is a cat?')" in message
    assert "preference.on_failure: exclude" in message
    judged = evaluations.judged("Broken", models=both, init_args={"said": said}, preference={"on_failure": "exclude"})
    wins = judged["win_rates"]["two"]
    assert (wins["excluded"]["failed"], wins["prompts"], wins["win_rate"]["mean"]) == (2, 1, 0.5)


def test_a_judge_is_asked_again_where_it_failed(evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"one": evaluations.responses("one", SHORT), "two": evaluations.responses("two", ["x", "y", "z"])}
    settings = {"models": both, "init_args": {"said": "error"}, "preference": {"on_failure": "exclude"}}
    assert evaluations.judged("Broken", **settings)["win_rates"]["two"]["prompts"] == 1
    monkeypatch.setattr(Broken, "compare", lambda self, pairs: ["tie"] * len(pairs))
    settings["init_args"] = {"said": "error"}
    assert evaluations.judged("Broken", **settings)["win_rates"]["two"]["prompts"] == 3


def test_what_a_judge_said_before_it_failed_is_kept(evaluations: Evaluations, failing: Callable[..., str]) -> None:
    both = {"one": evaluations.responses("one", SHORT), "two": evaluations.responses("two", ["x", "y", "z"])}
    judge = {"j": {"class_path": "tests.evaluation.judges_for_tests.Broken", "init_args": {"said": "maybe"}}}
    assert "what it has said already is kept" in failing(models=both, judges=judge)
    kept = [json.loads(line) for line in (evaluations.out / "judgements" / "j.jsonl").read_text().splitlines()]
    assert [row["said"] for row in kept] == ["tie", "tie"], "the third prompt in both orders; two others failed"
    assert len({row["id"] for row in kept}) == 1


def test_a_judge_that_is_not_remembered_does_not_promise_to_be(
    evaluations: Evaluations, failing: Callable[..., str]
) -> None:
    judge = {"j": {"class_path": "tests.evaluation.judges_for_tests.NoNumber"}}
    message = failing(models=models(evaluations), judges=judge)
    assert "answered nan" in message
    assert "kept" not in message


def test_agreement_of_judges(evaluations: Evaluations) -> None:
    """By length: loss, tie, win (of short); by position in both orders: tie, tie, tie."""
    names = {"length": "Longer", "pairs": "LongerOfTwo", "position": "FirstWins"}
    judges = {n: {"class_path": f"tests.evaluation.judges_for_tests.{c}"} for n, c in names.items()}
    result = read_result(evaluations.run(models=models(evaluations), judges=judges), "preference")
    assert result
    found = {tuple(a["judges"]): (a["agreement"], a["kappa"], a["comparisons"]) for a in result["agreement"]}
    assert found["length", "pairs"] == (1, 1, 3)
    assert found["length", "position"] == (pytest.approx(1 / 3), pytest.approx(0), 3)


PROGRAM = """
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    assert row.keys() == {"id", "sample", "prompt", "first", "second", "fields"}, row
    a, b = len(row["first"]), len(row["second"])
    print(json.dumps({"preferred": "tie" if a == b else "first" if a > b else "second"}))
"""


def test_a_command_as_judge(evaluations: Evaluations, failing: Callable[..., str]) -> None:
    path = "rlhf_lightning.evaluation.command_judge.CommandJudge"
    command = [sys.executable, "-c", PROGRAM]
    both = models(evaluations)
    wins = evaluations.judged(path, models=both, init_args={"command": command})["win_rates"]["long"]
    assert (wins["wins"], wins["ties"], wins["losses"]) == (1, 1, 1)
    for code, words in (
        ("print('hm')", "answered"),
        ("", "wrote 0 lines for 1 questions"),
        ('print(\'{"preferred": "\\u2028"}\')', "answered '\\u2028'"),
        ("import sys; sys.exit('no key')", "ended with status 1 (no key)"),
    ):
        command = [sys.executable, "-c", code]
        message = failing(models=both, judges={"j": {"class_path": path, "init_args": {"command": command}}})
        assert words in message
    message = failing(models=both, judges={"j": {"class_path": path, "init_args": {"command": "no-such-program -x"}}})
    assert "judges.j.command: there is no program 'no-such-program'" in message


def test_a_command_that_scores(evaluations: Evaluations) -> None:
    code = "import json, sys\nfor line in sys.stdin: print(json.dumps({'score': len(json.loads(line)['response'])}))"
    path = "rlhf_lightning.evaluation.command_judge.CommandScorer"
    init = {"command": [sys.executable, "-c", code]}
    wins = evaluations.judged(path, models=models(evaluations), init_args=init)["win_rates"]["long"]
    assert (wins["wins"], wins["ties"], wins["losses"]) == (1, 1, 1)
    assert len((evaluations.out / "judgements" / "j.jsonl").read_text().splitlines()) == 5  # "bb" is scored once


def test_answers_of_people(evaluations: Evaluations, failing: Callable[..., str], tmp_path: Path) -> None:
    path = "rlhf_lightning.evaluation.answers_file.AnswersFile"
    answers = tmp_path / "answers.jsonl"
    both = {"one": evaluations.responses("one", SHORT), "two": evaluations.responses("two", ["x", "y", "z"])}

    def write(*rows: tuple[str, str]) -> dict[str, object]:
        lines = [json.dumps({"id": i, "models": ["two", "one"], "preferred": p}) + "\n" for i, p in rows]
        answers.write_text("".join(lines))
        return {"init_args": {"path": str(answers)}}

    init = write(("p0", "two"), ("p0", "two"), ("p0", "one"), ("p1", "tie"), ("p2", "one"), ("p2", "two"))
    wins = evaluations.judged(path, models=both, **init)["win_rates"]["two"]
    assert (wins["wins"], wins["ties"], wins["losses"], wins["inconsistent"]) == (1, 2, 0, 0)
    judges = {"j": {"class_path": path} | write(("p0", "two"), ("p1", "tie"))}
    assert "gave no answer, for the prompt 'p2'" in failing(models=both, judges=judges)
    judges = {"j": {"class_path": path} | write(("p0", "three"))}
    assert "answers.jsonl, line 1: `preferred` is 'three'" in failing(models=both, judges=judges)
    judges = {"j": {"class_path": path} | write(("q0", "two"))}
    assert "is about none of the 3 prompts" in failing(models=both, judges=judges)


def test_prompts_missing_from_one_model(evaluations: Evaluations, failing: Callable[..., str]) -> None:
    both = {"one": evaluations.responses("one", SHORT), "two": evaluations.responses("two", ["x", "y"])}
    judges = {"j": {"class_path": "tests.evaluation.judges_for_tests.Longer"}}
    message = failing(models=both, judges=judges)
    assert "models.two" in message
    assert "two.jsonl has no response to 1 of 3 prompts and samples, the first 'p2' (sample 0)" in message
    wins = evaluations.judged("Longer", models=both, on_missing="exclude")["win_rates"]["two"]
    assert (wins["excluded"]["missing"], wins["prompts"]) == (1, 2)
    outputs = read_result(evaluations.out, "outputs")
    assert outputs
    assert outputs["models"]["two"]["responses"] == 2


def test_a_response_file_that_is_broken(evaluations: Evaluations, failing: Callable[..., str]) -> None:
    twice = evaluations.directory / "twice.jsonl"
    twice.write_text('{"id": "p0", "response": "a"}\n' * 2)
    assert "twice.jsonl, line 2: it is a second response to prompt 'p0'" in failing(models={"m": str(twice)})
    assert "models.m: there is no file" in failing(models={"m": "nowhere.jsonl"})
