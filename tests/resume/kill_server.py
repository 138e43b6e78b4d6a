"""Runs command lines in forked processes and kills some of them; a run then takes a second instead of ten.

A process of its own, because torch's autograd can be forked only before it was first used. Reads one JSON request
per line and answers each with one line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.resume.phases import PHASES, PhaseBoard, watch_all

TIMEOUT_S = 600.0


class KillServer:
    """Starts the server and talks to it.

    Example: `with KillServer(log) as server: server.run(["fit", "--config", ...])`
    """

    def __init__(self, log: Path) -> None:
        """
        Args:
            log: File that gets what the runs print.
        """
        self.log = log

    def __enter__(self) -> KillServer:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "tests.resume.kill_server", str(self.log)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.communicate("")

    def run(self, args: list[str], kill: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the command line once.

        Args:
            args: As typed after `python -m rlhf_lightning`.
            kill: When: {"phase": name, "nth": from 1, "delay": seconds after it began, "signal": number, by default
                SIGKILL}. None lets it end.

        Returns:
            "status" (negative: killed by that signal), "seconds", "counts" and "phase_seconds" by phase, "killed_in".
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"args": args, "kill": kill}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def serve(log: Path) -> None:
    """Answer requests until standard input ends."""
    import rlhf_lightning.cli
    import rlhf_lightning.ppo.module
    import rlhf_lightning.reward.module
    import rlhf_lightning.sft.module  # noqa: F401 (what a run imports is imported once, here)

    board = PhaseBoard()
    watch_all(board)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(handle(request, board, log)) + "\n")
        answers.flush()


def handle(request: dict[str, Any], board: PhaseBoard, log: Path) -> dict[str, Any]:
    """Fork, wait for the moment, kill, and report."""
    board.clear()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(request["args"], log)
    os.setpgid(pid, pid)  # a run may have processes of its own
    killed_in = None
    kill = request["kill"]
    while time.monotonic() - start < TIMEOUT_S:
        if kill and killed_in is None and board.count(kill["phase"]) >= kill["nth"]:
            time.sleep(kill["delay"])
            killed_in = board.running
            os.killpg(pid, kill.get("signal", signal.SIGKILL))
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.0002 if kill and killed_in is None else 0.005)
    else:
        os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - start,
        "counts": {phase: board.count(phase) for phase in PHASES},
        "phase_seconds": {phase: board.seconds(phase) for phase in PHASES},
        "killed_in": killed_in,
    }


def child(args: list[str], log: Path) -> None:
    """The run itself; does not return."""
    status = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from rlhf_lightning.cli import main

        status = main(args)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
