"""The rankings of each fold as files, from which its stage reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_lightning.data.kinds import PromptLike, Ranking
from rlhf_lightning.whole_files import replacing

_OWN = {"prompt", "responses", "ranks", "scores", "chosen", "rejected"}


def ranking_fields(row: Ranking) -> dict[str, object]:
    """A row that is read as the same ranking again, and says the same about itself."""
    about = {n: getattr(row, n) for n in ("id", "source", "category", "labeler", "labeler_group")}
    return {
        **{name: value for name, value in row.meta.items() if name not in _OWN},
        **{name: value for name, value in about.items() if value is not None},
        **({"flags": list(row.flags)} if row.flags else {}),
        "prompt": _prompt(row.prompt),
        "responses": list(row.responses),
        "ranks": list(row.ranks),
    }


def _prompt(prompt: PromptLike) -> object:
    return prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt]


def write_rankings(rows: Iterable[Ranking], files: Sequence[tuple[Path, NDArray[np.bool_]]]) -> None:
    """Go through rows once and write each to the files that want it; a file is there whole or not at all.

    Args:
        rows: M rows.
        files: Each with the rows that it gets, [M].
    """
    if not files:
        return
    with ExitStack() as stack:
        parts = [stack.enter_context(replacing(path)) for path, _ in files]
        outputs = [stack.enter_context(part.open("w", encoding="utf-8")) for part in parts]
        for number, row in enumerate(rows):
            wanted = [i for i, (_, mask) in enumerate(files) if mask[number]]
            if wanted:
                # What a table holds beside JSON's types (dates, bytes) was never read by the stage.
                line = json.dumps(ranking_fields(row), ensure_ascii=False, default=repr) + "\n"
                for i in wanted:
                    outputs[i].write(line)
