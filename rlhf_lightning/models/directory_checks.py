"""What a directory of weights may hold, checked before anything in it is loaded: data only, and nothing elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError

_PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER_CONFIG = "adapter_config.json"
_LARGEST_SETTINGS = 2**20
"""Bytes. Ours have a few kilobytes; what is a thousand times larger is not a settings file."""
_LARGEST_INDEX = 2**26
"""Bytes. An index has about 100 for each tensor."""


def read_json(file: Path, key: str, largest: int = _LARGEST_SETTINGS) -> dict[str, Any]:
    """The object in a small JSON file.

    Raises:
        UserError: Missing, too large, no JSON, or no object.
    """
    try:
        size = file.stat().st_size
        if size > largest:
            raise UserError(f"{key}: {file} has {size >> 20} MiB, far more than such a file needs. It is not read.")
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{key}: cannot read {file}: {error.strerror or error}.") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: {file} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{key}: {file} is damaged: it must hold a JSON object.")
    return value


def check_artefact(directory: Path, key: str) -> None:
    """An artefact is copied and sent about, so what it names must lie in it; only its base model may be elsewhere.

    Raises:
        UserError: A link or a tokenizer's file name leads out of the directory.
    """
    root = directory.resolve()
    for file in directory.rglob("*"):
        if file.is_symlink() and not _is_inside(file, root):
            raise UserError(
                f"{key}: {file} is a link that leads out of the artefact, to {os.readlink(file)}. "
                "Replace it with a copy of that file, if it belongs there."
            )
    config = directory / "tokenizer_config.json"
    for name, value in (read_json(config, key, _LARGEST_INDEX) if config.is_file() else {}).items():
        # transformers notes the origin of the special tokens, but reads the other files.
        if name.endswith("_file") and name != "special_tokens_map_file" and isinstance(value, str):
            _require_plain_name(value, f"`{name}`", config, key)


def check_model(directory: Path, key: str) -> None:
    """The files of a whole model: safetensors, all in the directory, and no adapter that transformers would add.

    Raises:
        UserError: Pickled files in place of safetensors, shards elsewhere, or an adapter of another program.
    """
    _require_safetensors(directory, (_WEIGHTS, _INDEX), key)
    _refuse_pickled_tokenizer(directory, key)
    if (directory / _ADAPTER_CONFIG).exists():
        raise UserError(
            f"{key}: {directory} holds an adapter ({_ADAPTER_CONFIG}) that was not trained here. Merge it into its "
            "model (peft's `merge_and_unload`, then `save_pretrained`), and name the result."
        )
    if (index := directory / _INDEX).is_file():
        shards = read_json(index, key, _LARGEST_INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise UserError(f"{key}: {index} is damaged: it has no `weight_map`.")
        for shard in set(map(str, shards.values())):
            _require_plain_name(shard, "a shard", index, key)


def check_adapter(directory: Path, weights: str, key: str) -> None:
    """The files of an adapter artefact.

    Raises:
        UserError: Pickled files in place of safetensors.
    """
    _require_safetensors(directory, (weights,), key)
    _refuse_pickled_tokenizer(directory, key)


def _is_inside(file: Path, root: Path) -> bool:
    try:
        return file.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # links in a circle
        return False


def _require_plain_name(name: str, what: str, file: Path, key: str) -> None:
    if name in {"", ".", ".."} or "/" in name or "\\" in name:
        raise UserError(
            f"{key}: {file} names {what} outside its directory, {name!r}. Put the file beside it and name it alone."
        )


def _require_safetensors(directory: Path, wanted: tuple[str, ...], key: str) -> None:
    if any((directory / name).is_file() for name in wanted):
        return
    if pickled := _pickled(directory):
        raise UserError(
            f"{key}: {directory / pickled[0]} is a pickled file, which can run any code when it is read, and there is "
            f"no {wanted[0]} beside it. Get or save the model as safetensors (`save_pretrained` writes them)."
        )


def _refuse_pickled_tokenizer(directory: Path, key: str) -> None:
    pickled = [name for name in _pickled(directory) if name.startswith(("tokenizer", "vocab"))]
    if pickled and not (directory / "tokenizer.json").is_file():
        raise UserError(
            f"{key}: {directory / pickled[0]} is a pickled tokenizer, which can run any code when it is read. "
            "Get or save the tokenizer as tokenizer.json (`save_pretrained` writes it)."
        )


def _pickled(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir() if file.suffix in _PICKLED)
