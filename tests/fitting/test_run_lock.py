"""Two processes never train in one directory; a killed one leaves no lock behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_lightning.cli import main
from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.run_lock import RunLock
from tests.conftest import TinyRuns

HOLDER = """
import sys, time
from pathlib import Path
from rlhf_lightning.fitting.run_lock import RunLock
lock = RunLock()
lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def hold(root: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of a directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"another process \({holder.pid}\) is training in"):
            RunLock().acquire(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    lock = RunLock()
    lock.acquire(tmp_path)
    lock.release()


def test_a_run_says_who_is_in_its_directory(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    root = tiny.root / "occupied"
    root.mkdir()
    holder = hold(root)
    try:
        assert main(tiny.args("sft", "occupied")) == 1
    finally:
        holder.kill()
        holder.wait()
    assert f"another process ({holder.pid})" in capsys.readouterr().err
    assert main(tiny.args("sft", "occupied", "--trainer.max_epochs", "1")) == 0
