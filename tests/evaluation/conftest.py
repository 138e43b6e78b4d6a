"""Small evaluations through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.cli import main
from rlhf_lightning.evaluation.sections import read_result

PROMPTS = [{"id": f"p{i}", "prompt": text} for i, text in enumerate(["What is a cat?", "Name a dog.", "Who barks?"])]


class Evaluations:
    """Writes configurations and runs them, in this process."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.out = directory, directory / "out"

    def responses(self, name: str, texts: list[str], **fields: Any) -> str:
        """A file of responses to PROMPTS."""
        path = self.directory / f"{name}.jsonl"
        rows = [{"id": f"p{i}", "response": text} | fields for i, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def run(self, expect: int = 0, **settings: Any) -> Path:
        """Run with these settings over the defaults of tests; gives the directory of results."""
        (self.directory / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
        defaults = {
            "prompts": str(self.directory / "prompts.jsonl"),
            "out": str(self.out),
            "device": "cpu",
            "precision": "32-true",
            "sampling": {"max_response_tokens": 6},
        }
        config = self.directory / "evaluate.yaml"
        config.write_text(json.dumps(defaults | settings))  # JSON is YAML
        assert main(["evaluate", "--config", str(config)]) == expect
        return self.out

    def judged(self, judge: str, **settings: Any) -> dict[str, Any]:
        """What one judge says."""
        init = settings.pop("init_args", {})
        path = judge if "." in judge else f"tests.evaluation.judges_for_tests.{judge}"
        out = self.run(judges={"j": {"class_path": path, "init_args": init}}, **settings)
        result = read_result(out, "preference")
        assert result
        judged: dict[str, Any] = result["judges"]["j"]
        return judged


@pytest.fixture
def evaluations(tmp_path: Path) -> Evaluations:
    return Evaluations(tmp_path)


@pytest.fixture
def failing(evaluations: Evaluations, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs what must be refused; gives the message, which must be one line."""

    def run(expect: int = 1, **settings: Any) -> str:
        capsys.readouterr()
        evaluations.run(expect, **settings)
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(error) == 1
        return error[0]

    return run
