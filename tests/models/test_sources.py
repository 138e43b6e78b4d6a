"""Converted models are found again by what they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.models import sources


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names in the cache of the models that were asked for, instead of conversions."""
    names: list[str] = []

    def note(name: str, write: Any) -> Path:
        names.append(name)
        return Path(name)

    monkeypatch.setattr(sources, "_build_once", note)
    return names


def test_a_gguf_file_of_the_same_name_and_size_is_another_model(tmp_path: Path, converted: list[str]) -> None:
    file = tmp_path / "Model.gguf"
    content = bytearray(1_000_000)
    for place in (0, 1, 500_001, 999_999):
        content[place] = 1
        file.write_bytes(content)
        sources.resolve(str(file))
    assert len(set(converted)) == 4
    assert all(name.startswith("model-") for name in converted)


def test_a_gguf_file_is_found_again_wherever_it_lies(tmp_path: Path, converted: list[str]) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.gguf").write_bytes(b"weights")
        sources.resolve(str(tmp_path / place / "model.gguf"))
    assert len(set(converted)) == 1


def test_a_gguf_file_with_another_pad_token_is_another_model(tmp_path: Path, converted: list[str]) -> None:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    sources._convert_gguf(tmp_path / "model.gguf")
    sources._convert_gguf(tmp_path / "model.gguf", pad_token="<pad>")
    assert len(set(converted)) == 2
