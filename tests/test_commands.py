"""Commands beside the stages' verbs: settings from files and flags, and errors that name the key."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_lightning import commands
from rlhf_lightning.cli import main
from rlhf_lightning.errors import UserError


@dataclass
class Settings:
    """What `echo` can be told.

    Args:
        count: A number.
        word: A text.
    """

    count: int
    word: str = "a"


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """A command `echo` that keeps the settings it was given."""
    seen: list[Settings] = []

    def run(args: Sequence[str]) -> int:
        settings = commands.parse_settings(Settings, "echo", args)
        if settings.word == "bad":
            raise UserError("word: not this one.")
        seen.append(settings)
        return 0

    module = ModuleType("echo_command")
    module.main = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "echo_command", module)
    monkeypatch.setitem(commands.COMMANDS, "echo", ("echo_command", "Keep what it is told."))
    return seen


def test_later_files_win_and_flags_win_over_files(echo: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("count: 1\nword: one\n")
    (tmp_path / "two.yaml").write_text("count: 2\n")
    files = ["--config", str(tmp_path / "one.yaml"), "--config", str(tmp_path / "two.yaml")]
    assert main(["echo", *files]) == 0
    assert main(["echo", *files, "--count", "3"]) == 0
    assert echo == [Settings(2, "one"), Settings(3, "one")]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, "count is missing"),
        (["--count", "x"], 2, "count: expected int"),
        (["--count", "1", "--wrod", "x"], 2, "--wrod"),
        (["--count", "1", "--word", "bad"], 1, "word: not this one."),
        (["--config", "nowhere.yaml"], 2, "nowhere.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(
    echo: list[Settings], args: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["echo", *args]) == status
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not echo


@pytest.mark.parametrize("name", ["--help", "-h"])
def test_help_lists_the_commands(echo: list[Settings], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name])
    assert "Keep what it is told." in " ".join(capsys.readouterr().out.split())  # lines are filled


def test_a_command_that_is_not_there(echo: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute", "--config", "x.yaml"]) == 1
    error = capsys.readouterr().err
    assert "'evalute' is no command" in error
    for name in ("fit", "evaluate", "trust", "echo"):
        assert name in error


def test_an_interrupted_command_says_so_in_one_line(
    echo: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_lightning.cli.run_command", interrupted)
    assert main(["echo"]) == 130
    assert capsys.readouterr().err.startswith("Stopped by Ctrl-C.")
