"""Every fenced command of the README is run or parsed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlhf_lightning.cli import main
from tests.conftest import TinyRuns

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for language, text in BLOCKS if language == "bash" for line in text.replace("\\\n", " ").splitlines() if line
]
PYTHON = [text for language, text in BLOCKS if language == "python"]


def test_every_block_has_a_language_we_check() -> None:
    assert {language for language, _ in BLOCKS} <= {"bash", "python", "text"}
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, tiny: TinyRuns) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", Path("Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[:3] == ["python", "-m", "rlhf_lightning"]:
        args = words[3:]
        if "--model.help" in args or "--print_config" in args:
            with pytest.raises(SystemExit) as stop:
                main(args)
        else:
            with pytest.raises(SystemExit) as stop:
                main([*args, "--print_config"])
        assert stop.value.code == 0
    else:
        assert words[0] == "tensorboard"


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python(code: str, tiny: TinyRuns) -> None:
    code = code.replace("checkpoints/tiny", str(tiny.root)).replace("L.Trainer(", "L.Trainer(logger=False, ")
    exec(compile(code, "README.md", "exec"), {})
