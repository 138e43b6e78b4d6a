"""What every refused run must look like, whatever was wrong with its input."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf_lightning.cli import StageCLI, main
from rlhf_lightning.fitting.run_lock import LOCK_FILE
from tests.conftest import TinyRuns

EARLIER = {"config.yaml": "earlier", "final/stage.json": "{}", "final/weights": "earlier", "lightning/last.ckpt": "e"}
LONGEST = 500


@dataclass(frozen=True)
class Refusal:
    """Starts runs that must be refused, where an earlier run has finished and is to be replaced."""

    tiny: TinyRuns
    capsys: pytest.CaptureFixture[str]

    def __call__(self, stage: str, *extra: str, parts: Sequence[str], args: list[str] | None = None) -> str:
        """The message of a refused run, after everything else about the refusal has been checked.

        Args:
            stage: Whose tiny configuration to start from.
            extra: What to add to its command line.
            parts: What the message must contain.
            args: The whole command line instead.
        """
        run = self._earlier_run()
        before = contents(run)
        self.capsys.readouterr()
        fresh = self.tiny.args(stage, run.name, "--overwrite", "true", *extra)
        status = fit(fresh) if args is None else main(args)
        out, err = self.capsys.readouterr()
        assert status in (1, 2), out
        assert "Traceback" not in out + err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, err
        message = errors[0]
        assert err.rstrip().endswith(message), "the message must be the last thing said, and on one line"
        assert len(message) < LONGEST, message
        for part in parts:
            assert part in message
        assert contents(run) == before, "an earlier run must stay as it is"
        return message

    def _earlier_run(self) -> Path:
        run = self.tiny.root / "refused"
        shutil.rmtree(run, ignore_errors=True)
        for name, text in EARLIER.items():
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text(text)
        return run


def fit(args: list[str]) -> int:
    """The command line without the other verbs, whose parsers take most of the time of a run that is refused."""
    verbs = {"fit": StageCLI.subcommands()["fit"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageCLI, "subcommands", staticmethod(lambda: verbs))
        return main(args)


def contents(run: Path) -> dict[str, str]:
    """Files of a run directory and what is in them, but for the lock and TensorBoard's, which only ever adds files."""
    aside = {"tensorboard", LOCK_FILE}
    files = (p for p in run.rglob("*") if p.is_file() and not aside & set(p.relative_to(run).parts))
    return {str(p.relative_to(run)): p.read_text(errors="replace") for p in files}
