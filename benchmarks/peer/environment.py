"""The peer's virtual environment: made once beside this file, with the versions that this project uses."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
PPO_TRL = "1.12.0"
"""The last release with a PPO trainer."""
TRL = "1.16.0"
SHARED = ("transformers", "peft", "accelerate", "datasets")
"""Packages that the peer gets in the version that is installed here, where its own requirements allow it."""


def peer_python(trl: str) -> str:
    """The interpreter of an environment with a TRL release; made if it is not there (some minutes, needs an index).

    Raises:
        SystemExit: pip failed; its message is on the screen.
    """
    directory = HERE / f".venv-{trl}"
    python = directory / "bin" / "python"
    if not (directory / "ready").is_file():
        print(f"Making {directory} with TRL {trl} ...", flush=True)
        venv.create(directory, with_pip=True, clear=True)
        # torch first and alone: what the others ask for would be any build of it.
        _pip(python, f"torch=={version('torch').partition('+')[0]}")
        ours = [f"{name}=={version(name)}" for name in SHARED]
        if _pip(python, f"trl=={trl}", *ours, required=False):
            print("TRL's requirements do not allow the same versions as here; pip chooses.", flush=True)
            _pip(python, f"trl=={trl}", *SHARED)
        (directory / "ready").write_text(trl + "\n")
    return str(python)


def _pip(python: Path, *packages: str, required: bool = True) -> int:
    done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages])
    if required and done.returncode:
        sys.exit(f"error: cannot install {' '.join(packages)} for the peer; give its interpreter with --peer-python.")
    return done.returncode
