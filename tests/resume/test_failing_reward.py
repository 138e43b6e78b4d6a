"""A reward that fails stops the run; once it is corrected, the run ends as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_lightning.cli import main
from rlhf_lightning.ppo.prompts import PromptItem, PromptStream
from tests.conftest import TinyRuns
from tests.resume.comparison import differences, scalars

MODULE = "tests.ppo.reward_examples"


def arguments(tiny: TinyRuns, name: str, switch: Path, *extra: str, contains: str = "sheep") -> list[str]:
    """A function that breaks on one prompt while a file exists, and a reward model beside it."""
    function = {"class_path": f"{MODULE}.FailsWhere", "init_args": {"file": str(switch), "contains": contains}}
    reward = json.dumps([{"function": function, "name": "mine", "weight": 0.5}, {"function": f"{MODULE}.letters"}])
    return tiny.args("ppo", name, "--model.init_args.reward", reward, "--trainer.max_epochs", "4", *extra)


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    return tmp_path / "broken"


def later_prompt(tiny: TinyRuns) -> str:
    """A prompt that the first iteration of configs/tiny/ppo.yaml does not take."""
    texts = [json.loads(line)["prompt"] for line in Path("configs/tiny/data/prompts.jsonl").read_text().splitlines()]
    first = PromptStream([PromptItem([0], t) for t in texts], 16, 1, 0).batch(0).texts
    return next(t for t in texts if t not in first)


def test_fixed_and_resumed_it_ends_like_the_uninterrupted_run(
    tiny: TinyRuns, switch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An iteration is made before the prompt comes; validation is off, as it would meet the prompt first."""
    prompt = later_prompt(tiny)
    quiet = ("--trainer.limit_val_batches", "0")
    assert main(arguments(tiny, "reward_whole", switch, *quiet, contains=prompt)) == 0
    switch.touch()
    capsys.readouterr()
    assert main(arguments(tiny, "reward_cut", switch, *quiet, contains=prompt)) == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for part in ("model.init_args.reward[0]: the reward 'mine' raised KeyError", prompt, "--ckpt_path last"):
        assert part in errors[0]
    assert "Traceback" not in printed.err + printed.out
    assert "The run failed at step" in printed.out
    assert "its state is in" in printed.out
    assert not (tiny.root / "reward_cut" / "final").exists()

    assert main(arguments(tiny, "reward_cut", switch, *quiet, "--ckpt_path", "last", contains=prompt)) == 1  # not yet
    switch.unlink()
    assert main(arguments(tiny, "reward_cut", switch, *quiet, "--ckpt_path", "last", contains=prompt)) == 0
    assert len(scalars(tiny.root / "reward_cut")) > 20
    assert not differences(tiny.root / "reward_whole", tiny.root / "reward_cut")


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_evaluation_names_the_prompt_too(
    tiny: TinyRuns, switch: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    switch.touch()
    fit = arguments(tiny, "reward_evaluated", switch, contains="ant sleep")
    assert main([verb, *fit[1:]]) == 1
    assert "for the prompt 'Where does a ant sleep?'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("weight", 0.25, "reward.mine.weight: 0.5 -> 0.25"),
        ("name", "other", "reward.other: None -> {"),
    ],
)
def test_a_run_with_other_rewards_is_another_run(
    tiny: TinyRuns, capsys: pytest.CaptureFixture[str], key: str, value: object, said: str
) -> None:
    def start(term: dict[str, object], *extra: str) -> int:
        reward = json.dumps([{"function": f"{MODULE}.letters", "name": "mine", "weight": 0.5} | term])
        return main(tiny.args("ppo", f"other_{key}", "--model.init_args.reward", reward, *extra))

    assert start({}, "--trainer.max_epochs", "1") == 0
    (tiny.root / f"other_{key}" / "final").rename(tiny.root / f"other_{key}" / "unfinished")
    capsys.readouterr()
    assert start({key: value}, "--ckpt_path", "last") == 1
    message = capsys.readouterr().err
    assert "the checkpoint is of another run" in message
    assert said in message
    assert start({"batch_size": 3}, "--ckpt_path", "last") == 0  # changes nothing but calls


def test_settings_of_a_function_are_compared(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    def start(characters: int, *extra: str) -> int:
        reward = {"class_path": f"{MODULE}.Brevity", "init_args": {"characters": characters}}
        return main(tiny.args("ppo", "brevity", "--model.init_args.reward", json.dumps(reward), *extra))

    assert start(4, "--trainer.max_epochs", "1") == 0
    (tiny.root / "brevity" / "final").rename(tiny.root / "brevity" / "unfinished")
    capsys.readouterr()
    assert start(5, "--ckpt_path", "last") == 1
    assert "Brevity.function.attributes.characters: 4 -> 5" in capsys.readouterr().err
    assert start(4, "--ckpt_path", "last") == 0
