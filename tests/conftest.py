"""Shared fixtures: a cache of their own, and the three tiny stages trained once a session."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["RLHF_LIGHTNING_CACHE"] = tempfile.mkdtemp(prefix="rlhf-lightning-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"

from rlhf_lightning.cli import main

ROOT = Path(__file__).parent.parent
TINY = ROOT / "configs" / "tiny"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    chosen = config.getoption("-m")
    for item in items:
        if "slow" in item.keywords and "slow" not in chosen:
            item.add_marker(pytest.mark.skip(reason="slow: select with -m slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs name their data relative to the repository."""
    monkeypatch.chdir(ROOT)


class TinyRuns:
    """Runs tiny stages through the command line, in this process, each in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def args(self, stage: str, name: str | None = None, *extra: str) -> list[str]:
        args = ["fit", "--config", str(TINY / f"{stage}.yaml")]
        args += ["--trainer.default_root_dir", str(self.root / (name or stage))]
        args += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        if stage == "reward":
            args += ["--model.init_args.init_from", str(self.root / "sft")]
        if stage in ("ppo", "ppo_ptx"):
            args += ["--model.init_args.policy_from", str(self.root / "sft")]
            args += ["--model.init_args.reward_from", str(self.root / "reward")]
        return [*args, *extra]

    def run(self, stage: str, name: str | None = None, *extra: str) -> Path:
        assert main(self.args(stage, name, *extra)) == 0
        return self.root / (name or stage)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """All three stages, finished."""
    old = os.getcwd()
    os.chdir(ROOT)
    runs = TinyRuns(tmp_path_factory.mktemp("tiny"))
    for stage in ("sft", "reward", "ppo"):
        runs.run(stage)
    os.chdir(old)
    return runs


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Writes rows to a file and gives its name."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> str:
        (tmp_path / name).write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        return str(tmp_path / name)

    return write
