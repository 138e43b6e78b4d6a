"""Files that appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_lightning.whole_files import replacing, write_json, write_whole


def test_a_file_appears_whole_in_a_directory_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "ä\r\n")
    assert path.read_bytes() == "ä\r\n".encode()
    write_whole(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "a.txt"
    if existed:
        path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        assert not existed or path.read_text() == "old"
        raise RuntimeError
    assert [f.read_text() for f in tmp_path.iterdir()] == (["old"] if existed else [])


def test_a_number_that_json_has_not_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ä": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"ä": float("nan")})
    assert json.loads(path.read_text()) == {"ä": 1}
    assert "\\u00e4" in path.read_text()
    write_json(path, {"ä": 1}, ascii_only=False)
    assert '"ä"' in path.read_text(encoding="utf-8")
