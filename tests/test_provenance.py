"""A result is of a commit, and says so where files differ from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rlhf_lightning import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose package directory `provenance` takes for its own."""
    for name in ("package/code.py", "results/old.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "provenance.py"))
    return tmp_path


def test_changed_files_are_marked(checkout: Path) -> None:
    clean = provenance.commit()
    assert len(clean) == 12
    (checkout / "results" / "old.json").write_text("2\n")
    assert provenance.commit() == f"{clean}+"


def test_results_written_before_do_not_count(checkout: Path) -> None:
    clean = provenance.commit("results")
    (checkout / "results" / "old.json").write_text("2\n")
    assert provenance.commit("results") == clean
    (checkout / "package" / "code.py").write_text("2\n")
    assert provenance.commit("results") == f"{clean}+"


def test_no_checkout_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.commit("results") == "unknown"
