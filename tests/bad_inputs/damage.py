"""Ways to damage a copy of a model or artefact directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], Any]


def nothing(directory: Path) -> None:
    """Leave it as it is."""


def without(*patterns: str) -> Damage:
    """Remove files."""

    def damage(directory: Path) -> None:
        for file in [f for pattern in patterns for f in directory.glob(pattern)]:
            file.unlink()

    return damage


def cut(name: str, size: int = 100) -> Damage:
    """Keep only the first bytes of a file, as an interrupted copy does."""

    def damage(directory: Path) -> None:
        (directory / name).write_bytes((directory / name).read_bytes()[:size])

    return damage


def content(name: str, data: bytes) -> Damage:
    """Write something else in place of a file."""
    return lambda directory: (directory / name).write_bytes(data)


def fields(name: str, **changes: Any) -> Damage:
    """Change fields of a JSON file."""

    def damage(directory: Path) -> None:
        values = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(values | changes))

    return damage


def pickled(weights: str, name: str) -> Damage:
    """Pickled weights in place of safetensors."""

    def damage(directory: Path) -> None:
        import torch

        (directory / weights).unlink()
        torch.save({"w": torch.zeros(2)}, directory / name)

    return damage


def tensors(name: str, **shapes: tuple[int, ...]) -> Damage:
    """Safetensors with zeros of other names or shapes."""

    def damage(directory: Path) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({k: torch.zeros(shape) for k, shape in shapes.items()}, directory / name)

    return damage


def tokenizer_with(token: str | None = None, chat_template: str | None = None) -> Damage:
    """The tiny model's tokenizer with another token or another template."""

    def damage(directory: Path) -> None:
        from rlhf_lightning.models import tiny

        tokenizer: Any = tiny.tokenizer(chat_template or tiny.CHAT_TEMPLATE)
        if token:
            tokenizer.add_tokens([token])
        tokenizer.save_pretrained(directory)

    return damage


def one_character_tokenizer(directory: Path) -> None:
    """A tokenizer that knows one character, drops all others, and has no chat template."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    without("tokenizer*", "chat_template*")(directory)
    core = Tokenizer(models.BPE(vocab={"<pad>": 0, "<eos>": 1, "§": 2}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken(t, special=True) for t in ("<pad>", "<eos>")])
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    made.save_pretrained(directory)
