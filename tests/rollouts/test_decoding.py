"""Sampling: the same tokens as a plain forward would give, whatever else is in the batch."""

from __future__ import annotations

from typing import Any

import torch

from rlhf_lightning.models.backbone import load_causal_lm
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.rollouts.decoding import decode
from rlhf_lightning.rollouts.inverse_cdf import sample
from rlhf_lightning.rollouts.settings import SamplingSettings

EOS, PAD = 2, 0


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 200, (6, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(6, 5, dtype=torch.bool)
    for row, padding in enumerate((0, 2, 4, 1, 3, 0)):
        ids[row, :padding], mask[row, :padding] = PAD, False
    return ids, mask


def assert_greedy_equals_fresh_forwards(lm: Any) -> None:
    ids, mask = prompts()
    out = decode(lm, ids, mask, SamplingSettings(8, temperature=0), torch.zeros(6, 8), EOS, PAD)
    for row in range(6):
        tokens = ids[row][mask[row]].tolist()
        for t in out.response_ids[row][out.response_mask[row]].tolist():
            with torch.no_grad():
                assert lm(input_ids=torch.tensor([tokens])).logits[0, -1].argmax() == t
            tokens.append(t)


def test_greedy_decoding_equals_a_fresh_forward_at_every_step() -> None:
    lm = load_causal_lm(resolve("embedded:tiny"))
    assert_greedy_equals_fresh_forwards(lm)


def test_positions_count_on_from_the_prompt() -> None:
    """With sharp attention a wrong position changes the tokens; a random model hardly looks at positions."""
    lm = load_causal_lm(resolve("embedded:tiny"))
    with torch.no_grad():
        for layer in lm.model.layers:
            layer.self_attn.q_proj.weight.mul_(30)
            layer.self_attn.k_proj.weight.mul_(30)
            layer.self_attn.v_proj.weight.mul_(10)
    assert_greedy_equals_fresh_forwards(lm)


def test_a_rows_sample_does_not_depend_on_its_neighbours() -> None:
    lm = load_causal_lm(resolve("embedded:tiny"))
    ids, mask = prompts()
    # A model that often stops: the EOS logit is raised, so rows leave the batch at different steps.
    lm.lm_head.weight.data = lm.lm_head.weight.data.clone()
    bias = torch.zeros(lm.config.vocab_size)
    bias[EOS] = 3.5
    lm.lm_head.bias = torch.nn.Parameter(bias)
    uniforms = torch.rand(6, 20, generator=torch.Generator().manual_seed(1))
    together = decode(lm, ids, mask, SamplingSettings(20), uniforms, EOS, PAD)
    lengths = together.response_mask.sum(1)
    assert lengths.min() < lengths.max()
    for row in range(6):
        alone = decode(lm, ids[[row]], mask[[row]], SamplingSettings(20), uniforms[[row]], EOS, PAD)
        n = int(lengths[row])
        assert together.response_ids[row, :n].tolist() == alone.response_ids[0].tolist()
        assert bool(together.truncated[row]) == bool(alone.truncated[0]) == (EOS not in alone.response_ids[0])


def test_eos_ends_a_response_and_belongs_to_it() -> None:
    lm = load_causal_lm(resolve("embedded:tiny"))
    lm.lm_head.bias = torch.nn.Parameter(
        torch.full((lm.config.vocab_size,), -1e4).index_fill(0, torch.tensor([EOS]), 0)
    )
    ids, mask = prompts()
    out = decode(lm, ids, mask, SamplingSettings(5), torch.full((6, 5), 0.5), EOS, PAD)
    assert out.response_ids.tolist() == [[EOS]] * 6
    assert out.response_mask.all()
    assert not out.truncated.any()


def test_samples_follow_the_distribution() -> None:
    """4,000 draws: standard errors of at most 0.008, tolerance four of them."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(4000, 4)
    draws = sample(logits, 0.7, torch.rand(4000, generator=torch.Generator().manual_seed(0)))
    frequencies = torch.bincount(draws, minlength=4) / 4000
    assert torch.allclose(frequencies, torch.softmax(logits[0] / 0.7, -1), atol=0.032)


def test_extreme_uniform_numbers_stay_in_range() -> None:
    logits = torch.tensor([[0.0, -float("inf"), 0.0], [0.0, 0.0, -float("inf")]])
    nearly_one = torch.tensor([0.99999994, 0.99999994])
    assert sample(logits, 1.0, nearly_one).tolist() == [2, 1]
    assert sample(logits, 1.0, torch.zeros(2)).tolist() == [0, 0]
