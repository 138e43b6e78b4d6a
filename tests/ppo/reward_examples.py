"""Rewards as a user writes them, named in configurations of tests by their import paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def letters(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Share of letters."""
    return [sum(c.isalpha() for c in r) / max(len(r), 1) for r in responses]


def same_start(prompts: Sequence[str], responses: Sequence[str]) -> torch.Tensor:
    """Whether prompt and response start alike; a tensor will do."""
    return torch.tensor([float(p[:1] == r[:1]) for p, r in zip(prompts, responses, strict=True)])


class Brevity:
    """0 at the wanted length, less the farther from it."""

    def __init__(self, characters: int = 8, scale: float = 1.0) -> None:
        self.characters, self.scale = characters, scale
        self._calls = 0

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[float]:
        self._calls += 1
        assert len(rows) == len(prompts) == len(responses)
        return [-self.scale * abs(len(r) - self.characters) for r in responses]


WRONG = {"nan": float("nan"), "inf": float("inf"), "huge": 10**400, "text": "good", "none": None, "vector": [1.0]}


class FailsWhere:
    """Breaks while a file exists, on prompts that contain a text."""

    def __init__(self, file: str, contains: str = "", how: str = "raise") -> None:
        self.file, self.contains, self.how = file, contains, how

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Any]:
        broken = [i for i, p in enumerate(prompts) if self.contains in p and Path(self.file).exists()]
        scores: list[Any] = letters(prompts, responses)
        if broken and self.how == "raise":
            raise KeyError("no such thing")
        if broken and self.how == "short":
            return scores[1:]
        for i in broken:
            scores[i] = WRONG[self.how]
        return scores
