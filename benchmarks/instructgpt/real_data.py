"""Real data in the layout of `--data`: read, split by prompt, and never copied into the project."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.quickstart.make_data import write_rows

Row = dict[str, Any]
FILES = {
    "demonstrations": "prompt",
    "rankings": "prompt",
    "comparisons": "prompt",
    "prompts": "prompt",
    "pretrain": "text",
}
"""Kind of rows, and the field that decides on which side of the split one is."""
PROMPTS_OF_A_SOURCE = 150
"""No source of prompts gets more: in the data this was made for, one is 94 % of all."""
HELD_OUT_OF_TEN = 2


def read_kind(directory: Path, name: str) -> list[Row]:
    """Rows of `<name>.jsonl` or `<name>.jsonl.gz`.

    Raises:
        UserError: There is no such file, or a line of it is not JSON.
    """
    for file in (directory / f"{name}.jsonl", directory / f"{name}.jsonl.gz"):
        if file.is_file():
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            lines = content.decode("utf-8").split("\n")
            return [_row(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    raise UserError(f"--data: {str(directory)!r} has no {name}.jsonl or {name}.jsonl.gz.")


def _row(file: Path, number: int, line: str) -> Row:
    try:
        row: Row = json.loads(line)
    except ValueError as error:
        raise UserError(f"--data: {file}:{number}: not JSON ({error}). Repair or delete the line.") from error
    return row


def held_out(row: Row, field: str) -> bool:
    """Which side a row is on: by a hash of its text, so that equal prompts are on the same in every file."""
    digest = hashlib.sha256(str(row[field]).encode()).digest()
    return digest[0] % 10 < HELD_OUT_OF_TEN


def few_of_each_source(rows: Iterable[Row]) -> list[Row]:
    """At most so many rows of a source, in the order of a hash."""
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[str(row.get("source"))].append(row)
    order = [
        sorted(found, key=lambda r: hashlib.sha256(str(r["prompt"]).encode()).hexdigest())
        for found in by_source.values()
    ]
    return [row for found in order for row in found[:PROMPTS_OF_A_SOURCE]]


def split_real_data(source: Path, target: Path) -> None:
    """Write `<kind>.jsonl` and `<kind>_val.jsonl` into the command's own directory.

    Raises:
        UserError: A file is missing or broken, or a row lacks its field.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, field in FILES.items():
        rows = read_kind(source, name)
        if missing := next((i for i, row in enumerate(rows, start=1) if field not in row), None):
            raise UserError(f"--data: {name}: row {missing} has no {field!r}.")
        if name == "prompts":
            rows = few_of_each_source(rows)
        sides = {side: [row for row in rows if held_out(row, field) == (side == "_val")] for side in ("", "_val")}
        if not sides[""] or not sides["_val"]:
            raise UserError(f"--data: {name}: {len(rows)} rows are too few to hold some out.")
        for side, found in sides.items():
            write_rows(target / f"{name}{side}.jsonl", found)
