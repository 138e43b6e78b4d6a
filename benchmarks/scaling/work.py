"""One point of a sweep: what is run, and what it should cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rlhf_lightning.models.ragged_attention import SMALL

VOCABULARY = 2048
"""More than the byte tokenizer has, so that logits have their share of the work."""
HEAD = 32
MINIBATCHES = 2
UNLIMITED = 1 << 20
TOKEN = 11
"""Numbers that a layer holds of a token, in widths: residual, its norm, query, key and value, attention's output, gate,
up and their product."""


@dataclass(frozen=True)
class Work:
    """A stage with exact lengths on a random Llama."""

    stage: str
    prompt: int = 64
    """Tokens of a prompt."""
    response: int = 64
    """Tokens of a response, its end included."""
    batch: int = 8
    """Rows of an optimizer step, over all processes; PPO: of an iteration."""
    k: int = 4
    """Responses of a ranking."""
    micro_batch_tokens: int = UNLIMITED
    decode_batch: int = 64
    """Prompts that PPO decodes together."""
    hidden: int = 128
    layers: int = 2
    processes: int = 1

    @property
    def row_tokens(self) -> int:
        """Tokens of a row; a ranking has its prompt once."""
        return self.prompt + (self.k if self.stage == "reward" else 1) * self.response

    def part_rows(self, rows: int) -> int:
        """Rows of the largest forward of so many rows of a process."""
        return max(1, min(rows, self.micro_batch_tokens // self.row_tokens))

    def model_directory(self, root: Path) -> Path:
        """Where the model of this size is."""
        return root / f"model-{self.hidden}-{self.layers}"

    # -- what theory says ---------------------------------------------------------------------------------

    @property
    def _layer_weights(self) -> int:
        return self.hidden * self.hidden * (2 + 1 + 3 * 2)  # q and o, k and v at half the heads, MLP of twice the width

    def _forward(self, sequences: int, length: int, seen: float) -> float:
        """Operations of all layers; `seen` is how many keys a token looks at on average."""
        return sequences * length * self.layers * (2 * self._layer_weights + 4 * self.hidden * seen)

    def operations(self, phase: str) -> float:
        """Multiplications and additions of a phase, up to a constant factor."""
        length, unembed = self.prompt + self.response, 2 * self.hidden * VOCABULARY
        logits = self.batch * self.response * unembed
        if self.stage == "reward":
            prompts = self._forward(self.batch, self.prompt, self.prompt / 2)
            return prompts + self._forward(self.batch * self.k, self.response, self.prompt + self.response / 2)
        if phase == "rollout":  # every token sees those before it in the cache, and the prompt is read once
            return self._forward(self.batch, length, length / 2) + logits
        return self._forward(self.batch, length, length / 2) + logits

    def held_bytes(self, phase: str) -> float:
        """Bytes that grow with the work, up to a constant factor: activations; in a rollout cache and weights."""
        rows = self.batch // self.processes
        if phase == "rollout":  # keys and values have half of the heads each; prompts are read a layer at a time
            together = min(rows, self.decode_batch)
            cache = together * (self.prompt + self.response) * self.layers * self.hidden
            return cache + self.layers * self._layer_weights + together * self.prompt * TOKEN * self.hidden
        if phase == "scoring":  # no backward: one layer at a time
            return self.part_rows(rows) * self.row_tokens * self.hidden
        parts = self.part_rows(rows // MINIBATCHES if phase == "update" else rows)
        return parts * self.layers * (self.row_tokens * TOKEN * self.hidden + self._probabilities)

    @property
    def _probabilities(self) -> int:
        """Of a row and layer: attention of short rows keeps its own for the backward."""
        if self.stage == "reward":
            blocks = [(self.prompt, self.prompt, 1), (self.response, self.prompt + self.response, self.k)]
        else:
            blocks = [(self.row_tokens, self.row_tokens, 1)]
        return sum(n * (self.hidden // HEAD) * own * seen for own, seen, n in blocks if own * seen <= SMALL)

    # -- data ---------------------------------------------------------------------------------------------

    def write_rows(self, file: Path, overhead: int) -> None:
        """Write rows of exactly these lengths for a tokenizer of one token a byte.

        Args:
            file: The JSON lines.
            overhead: Tokens that the chat template adds to a prompt.
        """
        lines = []
        for row in range(2 * self.batch):
            prompt = f"{row:04d}".ljust(self.prompt - overhead, "p")
            responses = [f"{i:02d}".ljust(self.response - 1, "r") for i in range(self.k)]
            if self.stage == "reward":
                answers = {"responses": responses, "ranks": list(range(1, self.k + 1))}
            else:
                answers = {"response": responses[0]} if self.stage == "sft" else {}
            lines.append(json.dumps({"prompt": prompt} | answers))
        file.write_text("\n".join(lines) + "\n")
