"""Every fenced command of the README is run or parsed."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml

from rlhf_lightning.cli import main
from tests.conftest import TinyRuns

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for language, text in BLOCKS if language == "bash" for line in text.replace("\\\n", " ").splitlines() if line
]
PYTHON = [text for language, text in BLOCKS if language == "python"]


def test_every_block_has_a_language_we_check() -> None:
    assert {language for language, _ in BLOCKS} <= {"bash", "python", "text", "yaml"}
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


def test_yaml_names_what_there_is() -> None:
    """The files and functions in it are the reader's own, so it is compared with the signatures."""
    from rlhf_lightning.ppo.module import PPOModule
    from rlhf_lightning.ppo.reward_terms import RewardTerm

    blocks = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]
    assert blocks
    for block in blocks:
        settings = block["model"]["init_args"]
        assert settings.keys() <= inspect.signature(PPOModule).parameters.keys()
        for term in settings.get("reward", []):
            assert term.keys() <= {f.name for f in dataclasses.fields(RewardTerm)}


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python(code: str, tiny: TinyRuns) -> None:
    code = code.replace("checkpoints/tiny", str(tiny.root)).replace("L.Trainer(", "L.Trainer(logger=False, ")
    exec(compile(code, "README.md", "exec"), {})
