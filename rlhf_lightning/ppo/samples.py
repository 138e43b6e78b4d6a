"""The sample table: what the policy writes, with score, KL and length, as TensorBoard text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlhf_lightning.callbacks import log_text, markdown_table
from rlhf_lightning.ppo.rollout import Rollout

if TYPE_CHECKING:
    from rlhf_lightning.ppo.module import PPOModule

COLUMNS = ["prompt", "response", "score", "kl", "length"]


class SampleTable:
    """Gathers samples over a validation and writes the first few."""

    def __init__(self, module: PPOModule, size: int = 12) -> None:
        self._module = [module]  # in a list, so that the module does not become its own submodule
        self.size = size
        self._rows: list[dict[str, Any]] = []

    def rows(self, texts: list[str], rollout: Rollout, scores: Tensor, kl: Tensor) -> list[dict[str, Any]]:
        """One dictionary per response: prompt, response, score, kl (nats), length (tokens), truncated."""
        decode = self._module[0].template.decode
        return [
            {
                "prompt": text,
                "response": decode(ids[mask].tolist()),
                "score": float(score),
                "kl": float(divergence),
                "length": int(mask.sum()),
                "truncated": bool(cut),
            }
            for text, ids, mask, score, divergence, cut in zip(
                texts, rollout.response_ids, rollout.response_mask, scores, kl, rollout.truncated, strict=True
            )
        ]

    def add(self, texts: list[str], rollout: Rollout, scores: Tensor, kl: Tensor) -> None:
        """Keep samples of a batch until there are enough."""
        if len(self._rows) < self.size:
            self._rows += self.rows(texts, rollout, scores, kl)

    def write(self, name: str) -> None:
        """Write the table and forget its rows."""
        rows = [[row[c] for c in COLUMNS] for row in self._rows[: self.size]]
        self._rows = []
        if rows:
            log_text(self._module[0], name, markdown_table(COLUMNS, rows))
