"""Who ranked each row of a split, about what, and which rows share a prompt: what accuracy is told apart by."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.kinds import Row
from rlhf_lightning.data.openings import DIGEST_BYTES, digest

COLUMNS = {
    "labeler": "(no labeler)",
    "labeler_group": "(no labeler group)",
    "category": "(no category)",
}
"""What rows are told apart by, and what those are called that do not say."""
_NONE = -1


class RowLabels:
    """Labels of rows in the order in which they were added; 40 bytes each."""

    def __init__(self) -> None:
        self._codes = {column: array("i") for column in COLUMNS}
        self._names: dict[str, dict[str, int]] = {column: {} for column in COLUMNS}
        self._files: dict[str, int] = {}
        self._file, self._line = array("i"), array("q")
        self._prompts = bytearray()

    def add(self, row: Row) -> None:
        """Note the labels, the prompt and the place of a row."""
        for column, names in self._names.items():
            name = getattr(row, column)
            self._codes[column].append(_NONE if name is None else names.setdefault(name, len(names)))
        self._prompts += digest(row)
        self._file.append(self._files.setdefault(row.file, len(self._files)))
        self._line.append(row.line)

    def __len__(self) -> int:
        return len(self._prompts) // DIGEST_BYTES

    def column(self, name: str) -> list[str | None]:
        """[M] one of `COLUMNS`, None where a row does not say."""
        names = [*self._names[name], None]
        return [names[code] for code in self._codes[name]]

    @property
    def places(self) -> list[tuple[str, int]]:
        """[M] file and line (or number) of every row: rows that were left out are not among them."""
        names = list(self._files)
        return [(names[file], line) for file, line in zip(self._file, self._line, strict=True)]

    @property
    def prompts(self) -> NDArray[np.str_]:
        """[M] equal where prompts are, in any file and run: as `openings.Openings` compares them."""
        return np.array([self._prompts[i : i + DIGEST_BYTES].hex() for i in range(0, len(self._prompts), DIGEST_BYTES)])
