"""A data file is never in memory whole, whatever its form."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WORDS = "these words of the response are written over and over again "


def rows(size: int) -> Iterator[dict[str, str]]:
    """About `size` bytes of demonstrations."""
    for i in range(size // 3100):
        yield {"prompt": f"Question {i}: " + WORDS * 5, "response": f"Answer {i}: " + WORDS * 45}


def write_json_lines(path: Path, size: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(size))


def write_json_list(path: Path, size: int) -> None:
    with path.open("w") as file:
        file.write("[")
        for i, row in enumerate(rows(size)):
            file.write((", " if i else "") + json.dumps(row))
        file.write("]")


def write_csv(path: Path, size: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "response"])
        writer.writeheader()
        writer.writerows(rows(size))


def write_parquet(path: Path, size: int) -> None:
    import pyarrow
    import pyarrow.parquet

    # Without compression and dictionaries, so that the file is as large as what is in it.
    schema = pyarrow.schema([("prompt", pyarrow.string()), ("response", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for _ in range(max(1, size // 2**23)):
            writer.write_table(pyarrow.Table.from_pylist(list(rows(min(size, 2**23))), schema))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "write", "megabytes"),
    [
        ("a.jsonl", write_json_lines, 24),
        pytest.param("a.json", write_json_list, 80, marks=pytest.mark.slow),
        pytest.param("a.csv", write_csv, 80, marks=pytest.mark.slow),
        pytest.param("a.parquet", write_parquet, 240, marks=pytest.mark.slow),
    ],
)
def test_peak_memory_is_a_fraction_of_the_file(
    tmp_path: Path, name: str, write: Callable[[Path, int], None], megabytes: int
) -> None:
    small, large = tmp_path / f"small_{name}", tmp_path / name
    write(small, 2**20)
    write(large, megabytes * 2**20)
    command = [sys.executable, "-m", "tests.data.peak_memory", str(small), str(large)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    assert grown < 0.4 * large.stat().st_size, f"{grown / 2**20:.0f} MiB"
