"""What a user wrote under `train:` or `val:` to files and Hub names, before anything is read."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.data.records import place
from rlhf_lightning.errors import UserError

Format = Literal["jsonl", "json", "csv", "parquet", "hub"]

_EXTENSIONS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".json": "json",
    ".json.gz": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_KNOWN = ", ".join(_EXTENSIONS)


@dataclass(frozen=True)
class Source:
    """One file, or one split on the Hub."""

    name: str
    """Path, or "org/name:split"."""
    format: Format


def resolve(source: str | Sequence[str], key: str) -> list[Source]:
    """Every file and Hub split of a source, in the order given; what a glob matches is sorted by name.

    A file that is given twice is read twice, which is a way to weight it.

    Raises:
        UserError: Something does not exist, is a directory, or has an unknown extension.
    """
    entries = [source] if isinstance(source, str) else source
    # Callers from Python can pass anything, and iterating over a dict or None gives baffling errors later.
    if not isinstance(entries, Sequence) or isinstance(entries, bytes) or not all(isinstance(e, str) for e in entries):
        raise UserError(f"{key}: is {source!r}; give a path, a glob, a Hub name, or a list of them.")
    if not entries:
        raise UserError(f"{key}: the list of files is empty; name at least one file.")
    return [found for entry in entries for found in _resolve_one(entry, key)]


def _resolve_one(entry: str, key: str) -> list[Source]:
    if not entry.strip():
        raise UserError(f"{key}: a file name is empty; give a path, a glob or a Hub name.")
    path = os.path.expanduser(entry)
    if os.path.isdir(path):
        pattern = os.path.join(path, "*.jsonl")
        raise UserError(f"{key}: {entry} is a directory; name the files in it, for instance {pattern!r}.")
    if os.path.exists(path):  # before globs, so that a file that is really called "a[1].jsonl" can be read
        return [_file(path, key)]
    if glob.has_magic(path):
        matches = sorted(m for m in glob.glob(path, recursive=True) if not os.path.isdir(m))
        if not matches:
            raise UserError(f"{key}: no file matches {entry}{_looked_in(path)}. Check the pattern.")
        return [_file(match, key) for match in matches]
    if _is_hub_name(entry):
        return [Source(entry if ":" in entry else f"{entry}:train", "hub")]
    raise UserError(
        f"{key}: there is no file {entry}{_looked_in(path)}. Check the path (a data set on the Hub is "
        "written 'org/name' or 'org/name:split')."
    )


def _file(path: str, key: str) -> Source:
    kind = _format(path)
    if kind is None:
        raise UserError(f"{place(key, path)}: unknown extension; use one of {_KNOWN}.")
    return Source(path, kind)


def _format(path: str) -> Format | None:
    # The longest extension first: "x.json.gz" must not depend on what ".gz" alone would mean.
    for extension in sorted(_EXTENSIONS, key=len, reverse=True):
        if path.lower().endswith(extension):
            return _EXTENSIONS[extension]
    return None


def _is_hub_name(entry: str) -> bool:
    # "data/train.jsonl" looks like a Hub name too. A typing error in a path must not go looking on the
    # network (minutes, when offline): what ends like a data file or begins with a local directory is a path.
    return (
        _HUB_NAME.fullmatch(entry) is not None
        and _format(entry) is None
        and not os.path.isdir(entry.split("/", maxsplit=1)[0])
    )


def _looked_in(path: str) -> str:
    return "" if os.path.isabs(path) else f" (looked in {os.getcwd()})"
