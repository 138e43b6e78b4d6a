"""Accuracy of a validation by labeler, labeler group and category: a table, and two files in the run directory."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlhf_lightning.callbacks import log_text, markdown_table
from rlhf_lightning.data.row_labels import COLUMNS, RowLabels
from rlhf_lightning.pair_accuracy import PairCounts, accuracy, by_slice
from rlhf_lightning.reward.loss import Pairs
from rlhf_lightning.whole_files import write_json, write_whole

if TYPE_CHECKING:
    from rlhf_lightning.reward.module import RewardModule

MOST = 40
"""Slices of a kind that the table shows, the largest; the file has all."""
Slices = dict[str, dict[str, dict[str, Any]]]


class RankingResults:
    """How many pairs of every ranking of a split the scores order right, over batches and processes."""

    def __init__(self) -> None:
        self._batches: list[tuple[list[int], Tensor, Tensor]] = []

    def update(self, rows: list[int] | None, scores: Tensor, pairs: Pairs) -> None:
        """Add a batch.

        Args:
            rows: [B] numbers of its rankings in the split; None (a loader of somebody's own) adds nothing.
            scores: [N].
            pairs: The decided pairs.
        """
        if rows is not None:
            right = (scores[pairs.better] > scores[pairs.worse]).long()
            count = torch.bincount(pairs.prompt, minlength=len(rows))
            won = torch.zeros_like(count).index_add_(0, pairs.prompt, right)
            self._batches.append((rows, won, count))

    def forget(self) -> None:
        """Start again."""
        self._batches = []

    def totals(self, module: RewardModule, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Right pairs and pairs of the split's rankings, [size] each; 0 where a ranking was not validated.

        Every process must call it; it forgets them. A ranking that several processes have seen counts once.
        """
        sums = torch.zeros(3, size, dtype=torch.long, device=module.device)
        for rows, right, count in self._batches:
            at = torch.tensor(rows, device=module.device)
            sums.index_add_(1, at, torch.stack([right, count, torch.ones_like(count)]).to(module.device))
        self.forget()
        right, pairs, seen = module.reduce_sum(sums).cpu().numpy()
        return right // np.maximum(seen, 1), pairs // np.maximum(seen, 1)


class SliceTable:
    """Gathers results over a validation or test, and writes what they say about each slice."""

    def __init__(self, module: RewardModule) -> None:
        self._module = [module]  # in a list, so that the module does not become its own submodule
        self.results = RankingResults()

    def write(self, split: str) -> None:
        """Write `<split>/accuracy_by_slice` (TensorBoard text), `<split>_accuracy.json` and `<split>_rankings.csv`.

        Args:
            split: "val" or "test".
        """
        module = self._module[0]
        labels = getattr(getattr(module.trainer, "datamodule", None), "labels", None)
        if not labels:
            self.results.forget()
            return
        right, pairs = self.results.totals(module, len(labels))
        trainer = module.trainer
        if trainer.sanity_checking or trainer.fast_dev_run or not trainer.is_global_zero or not pairs.any():  # type: ignore[attr-defined]
            return
        slices = slices_of(PairCounts(right, pairs, labels.prompts), labels)
        table = markdown(slices, f"{split}_accuracy.json")
        log_text(module, f"{split}/accuracy_by_slice", table)
        root = Path(trainer.default_root_dir)
        write_whole(root / f"{split}_rankings.csv", rankings_csv(right, pairs, labels))
        write_json(root / f"{split}_accuracy.json", self._position() | slices)
        if trainer.state.fn != "fit":
            print(table)

    def _position(self) -> dict[str, Any]:
        """Which weights these are the results of."""
        trainer = self._module[0].trainer
        if trainer.state.fn == "fit":
            return {"step": trainer.global_step, "last_step": trainer.estimated_stepping_batches == trainer.global_step}
        return {"checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path)}


def slices_of(counts: PairCounts, labels: RowLabels) -> Slices:
    """Accuracy of all rankings and of every slice, as it is written."""
    found = {"all": {"all": accuracy(counts)}}
    found |= {column: by_slice(counts, labels.column(column), none) for column, none in COLUMNS.items()}
    written: Slices = {}
    for column, slices in found.items():
        written[column] = {}
        for name, estimate in slices.items():
            values = asdict(estimate)
            written[column][name] = {"accuracy": values.pop("value")} | values
    return written


def markdown(slices: Slices, file: str) -> str:
    """The slices as a table, the largest of each kind."""
    rows = []
    for column, found in slices.items():
        shown = sorted(found, key=lambda name: -found[name]["pairs"])[:MOST]
        for name, one in found.items():
            if name in shown:
                error = "" if one["error"] is None else one["error"]
                rows.append([column, name, one["accuracy"], error, one["pairs"], one["prompts"]])
        if len(found) > MOST:
            rows.append([column, f"{len(found) - MOST} smaller ones: see {file}", "", "", "", ""])
    return markdown_table(["slice", "", "accuracy", "standard error (over prompts)", "pairs", "prompts"], rows)


def rankings_csv(right: np.ndarray[Any, Any], pairs: np.ndarray[Any, Any], labels: RowLabels) -> str:
    """A line for every ranking that was validated, for slices of one's own; `file` and `line` say which it is."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "line", "prompt", *COLUMNS, "pairs", "right"])
    columns = [labels.column(column) for column in COLUMNS]
    for i, (place, prompt) in enumerate(zip(labels.places, labels.prompts, strict=True)):
        if pairs[i]:
            writer.writerow([*place, prompt, *(column[i] or "" for column in columns), pairs[i], right[i]])
    return text.getvalue()
