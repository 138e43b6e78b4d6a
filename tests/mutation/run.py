"""Runs mutations: `python -m tests.mutation.run [--only NAME]`. Exit status 1 if one survives.

Package and tests are copied to a temporary directory, where one file at a time is changed. The imports take longer
than the tests, so this process imports everything once and every mutation gets a fork, in which our own modules
are imported again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.mutation import ROOT, Mutation
from tests.mutation.mutations import MUTATIONS

PASSED, FAILED = 0, 1
"""Exit statuses of pytest; anything else means that the tests could not be run."""
LIMIT_S = 120


class Workplace:
    """A copy of the repository in which tests are run by forks of this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.output = root / "output.txt"
        for name in ("rlhf_lightning", "tests", "configs"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        (root / "tmp").mkdir()
        os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a pool of threads does not survive a fork
        os.chdir(root)
        sys.path[:] = [str(root), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        sys.dont_write_bytecode = True  # a cached module could be taken for its changed source
        tempfile.tempdir = str(root / "tmp")
        self._import_third_parties()

    def _import_third_parties(self) -> None:
        import importlib

        import pytest  # noqa: F401 (for the forks)
        from hypothesis import Phase, settings

        settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutation")  # a failure is enough, nobody reads the smallest one
        forget_own_modules()
        importlib.import_module("tests.conftest")  # once, for the cache directory that it makes
        for path in sorted({m.test.partition("::")[0] for m in MUTATIONS}):
            importlib.import_module(path.removesuffix(".py").replace("/", "."))
        forget_own_modules()

    def pytest(self, nodes: Sequence[str]) -> int:
        """Exit status of pytest on some tests, or minus the signal that ended it."""
        child = os.fork()
        if child == 0:
            with self.output.open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            signal.alarm(LIMIT_S)
            import pytest

            status = 3
            try:
                status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--noconftest", *nodes]))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def verdict(self, mutation: Mutation) -> str:
        """killed, survived, equivalent or error."""
        path = self.root / mutation.file
        source = path.read_text()
        path.write_text(mutation.mutated(source))
        try:
            status = self.pytest([mutation.test])
        finally:
            path.write_text(source)
        if mutation.equivalent:
            return "equivalent" if status == PASSED else "error"
        return {PASSED: "survived", FAILED: "killed"}.get(status, "error")


def forget_own_modules() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("rlhf_lightning", "tests"):
            del sys.modules[name]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check that tests notice deliberate mistakes.")
    parser.add_argument("--only", default="", help="mutations whose name contains this")
    only = parser.parse_args(arguments).only
    chosen = [m for m in MUTATIONS if only in m.name]
    if not chosen:
        print(f"no mutation is named {only!r}")
        return 2
    start = time.perf_counter()
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory:
        place = Workplace(Path(directory))
        if place.pytest(sorted({m.test for m in chosen})) != PASSED:
            print(place.output.read_text())
            print("the tests fail without any mutation")
            return 2
        for mutation in chosen:
            began = time.perf_counter()
            verdict = place.verdict(mutation)
            counts[verdict] = counts.get(verdict, 0) + 1
            print(f"{verdict:10} {time.perf_counter() - began:5.1f} s  {mutation.name}", flush=True)
            if verdict == "error":
                print(place.output.read_text())
        os.chdir(ROOT)
    summary = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    print(f"{len(chosen)} mutations in {time.perf_counter() - start:.0f} s: {summary}")
    return 1 if counts.get("survived") or counts.get("error") else 0


if __name__ == "__main__":
    sys.exit(main())
