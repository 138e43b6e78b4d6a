"""A prompt computed once for K responses gives what K separate sequences give: scores and gradients."""

from __future__ import annotations

import torch

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.reward.data import RankedPrompt, collate


def test_scores_and_gradients_equal_those_of_separate_sequences() -> None:
    """In float64: gradients are of order 350, where float32 sums in another order differ by more than the bound."""
    backbone = Backbone(load_causal_lm(resolve("embedded:tiny"), torch.float64))
    backbone.add_adapter("a", LoraSettings(rank=4).peft_config(), trainable=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in backbone.adapter_state("a").values():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    rows = [
        RankedPrompt([5, 6, 7, 8, 9], [[10, 11, 2], [12, 2]], [1, 2]),
        RankedPrompt([20, 21], [[22], [23, 24, 25, 2], [26, 2]], [1, 2, 3]),
    ]
    batch = collate(rows, pad_id=0)
    weight = torch.randn(64, generator=generator, dtype=torch.float64)

    def gradients(scores: torch.Tensor) -> list[torch.Tensor]:
        backbone.zero_grad()
        (scores * torch.arange(1.0, 6.0)).sum().backward()
        return [p.grad.clone() for p in backbone.adapter_state("a").values() if p.grad is not None]

    with backbone.using("a"):
        tokens, ends = batch.ragged()
        assert len(tokens) == 7 + 12  # every prompt once
        shared_scores = backbone.hidden_ragged(tokens)[ends] @ weight
        separate_scores = torch.stack(
            [
                backbone.hidden(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))[0, -1] @ weight
                for ids in [row.prompt_ids + r for row in rows for r in row.responses]
            ]
        )
    assert torch.allclose(shared_scores, separate_scores, atol=1e-5)
    ours, theirs = gradients(shared_scores), gradients(separate_scores)
    assert len(ours) == len(theirs) == 28
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))
