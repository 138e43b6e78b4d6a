"""The alignment tax of one model: loss on held-out pretraining text, and the exact-match tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.instructgpt.exact_match import Item
from rlhf_lightning.evaluation.respond import Panel
from rlhf_lightning.logprobs import token_logprobs
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.ragged import from_lengths

BATCH = 32
"""Texts of one forward."""


@torch.no_grad()
def text_losses(panel: Panel, name: str, texts: Sequence[str], max_tokens: int = 512) -> dict[str, list[Any]]:
    """Negative log-likelihood (nats) and number of predicted tokens of every text, EOS included.

    Args:
        panel: Models.
        name: Which of them.
        texts: Documents, without a template.
        max_tokens: Longer ones are cut.
    """
    ids = [panel.template.encode_document(text)[:max_tokens] for text in texts]
    losses: list[float] = []
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        hidden, unembed = _hidden(panel, name, part)
        tokens = torch.tensor([t for row in part for t in row], device=hidden.device)
        lengths = torch.tensor([len(row) for row in part], device=hidden.device)
        ends = lengths.cumsum(0) - 1
        before = torch.ones(len(tokens), dtype=torch.bool, device=hidden.device)
        before[ends] = False
        after = before.roll(1)
        logprobs, _ = token_logprobs(hidden[before], tokens[after], unembed, with_entropy=False)
        rows = torch.arange(len(part), device=hidden.device).repeat_interleave(lengths - 1)
        sums = torch.zeros(len(part), device=hidden.device).index_add(0, rows, -logprobs)
        losses += [round(float(s), 4) for s in sums]
    return {"nll": losses, "tokens": [len(row) - 1 for row in ids]}


@torch.no_grad()
def exact_matches(panel: Panel, name: str, items: Sequence[Item]) -> list[int]:
    """1 for each item whose answer, and nothing before its line break, greedy decoding would write; else 0."""
    tokenizer = panel.template.tokenizer

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    encoded = [(encode(item.prompt), encode(item.answer)) for item in items]
    right: list[int] = []
    for start in range(0, len(encoded), BATCH):
        part = encoded[start : start + BATCH]
        hidden, unembed = _hidden(panel, name, [prompt + answer for prompt, answer in part])
        places: list[int] = []
        targets: list[int] = []
        rows: list[int] = []
        end = 0
        for row, (prompt, answer) in enumerate(part):
            first = end + len(prompt) - 1  # predicts the answer's first token
            places += range(first, first + len(answer))
            targets += answer
            rows += [row] * len(answer)
            end += len(prompt) + len(answer)
        best = unembed(hidden[torch.tensor(places, device=hidden.device)]).argmax(-1)
        wrong = {r for r, b, t in zip(rows, best.tolist(), targets, strict=True) if b != t}
        right += [int(row not in wrong) for row in range(len(part))]
    return right


def _hidden(panel: Panel, name: str, ids: Sequence[list[int]]) -> tuple[Tensor, Any]:
    """Final hidden states of all tokens [N, H], and the unembedding."""
    backbone, adapter = place(panel, name)
    device = backbone.unembed.weight.device
    lengths = torch.tensor([len(row) for row in ids], device=device)
    tokens = torch.tensor([t for row in ids for t in row], device=device)
    with panel._autocast(), backbone.using(adapter):
        return backbone.hidden_ragged(from_lengths(tokens, lengths)), backbone.unembed


def place(panel: Panel, name: str) -> tuple[Backbone, str | None]:
    """Backbone and adapter of a panel's model."""
    return panel._places[name]
