"""Sampling: the same tokens as a plain forward would give, whatever else is in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig

from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.ragged_support import enable_ragged
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.rollouts import decoding
from rlhf_lightning.rollouts.cuda_graphs import RecordedStep
from rlhf_lightning.rollouts.decoding import decode
from rlhf_lightning.rollouts.inverse_cdf import draw, sample
from rlhf_lightning.rollouts.kv_cache import fix_shapes
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.rollouts.skinny import skinny_linears

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


@pytest.mark.parametrize("least", [0, 70])
def test_fixed_shapes_change_no_token(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA graphs replay, run one by one: buffers that grow, rows that leave, columns not yet filled."""
    rooms: list[int] = []
    monkeypatch.setattr(decoding, "fix_shapes", lambda *args: rooms.append(fix_shapes(*args)) or rooms[-1])
    lm = load_causal_lm(resolve("embedded:tiny"))
    lm.lm_head.bias = torch.nn.Parameter(torch.zeros(lm.config.vocab_size).index_fill(0, torch.tensor([EOS]), 1.5))
    ids, mask = prompts()
    uniforms = torch.rand(6, 200, generator=torch.Generator().manual_seed(1))
    plain, fixed = (
        decode(lm, ids, mask, SamplingSettings(200, min_response_tokens=least), uniforms, EOS, PAD, fixed_shapes=fixed)
        for fixed in (False, True)
    )
    lengths = plain.response_mask.sum(1)
    assert len(set(rooms)) > 1  # shapes were fixed, and a buffer was outgrown
    # A buffer has been outgrown, and rows have left before; or none could.
    assert lengths.max() > 64 > lengths.min() or lengths.min() > least > 64
    assert torch.equal(fixed.response_ids, plain.response_ids)
    assert torch.equal(fixed.response_mask, plain.response_mask)
    assert torch.allclose(fixed.logprobs, plain.logprobs, atol=1e-5)


def test_models_with_other_caches_decode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sliding windows, for example: transformers' own cache, and no fixed shapes."""
    lm = load_causal_lm(resolve("embedded:tiny"))
    ids, mask = prompts()
    uniforms = torch.rand(6, 20, generator=torch.Generator().manual_seed(1))
    plain = decode(lm, ids, mask, SamplingSettings(20), uniforms, EOS, PAD)
    monkeypatch.setattr(decoding, "roomy_cache", lambda *_: None)
    other = decode(lm, ids, mask, SamplingSettings(20), uniforms, EOS, PAD, fixed_shapes=True)
    assert torch.equal(other.response_ids, plain.response_ids)


def test_models_with_a_mask_of_their_own_decode_too() -> None:
    """Falcon adds ALiBi's bias to a mask that it makes itself: no fixed shapes."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = FalconConfig(vocab_size=200, alibi=True, bos_token_id=None, eos_token_id=None, **sizes)
        lm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    enable_ragged(lm)
    assert lm.config._attn_implementation == "sdpa"
    ids, mask = prompts()
    uniforms = torch.rand(6, 20, generator=torch.Generator().manual_seed(1))
    plain, other = (
        decode(lm, ids, mask, SamplingSettings(20), uniforms, EOS, PAD, fixed_shapes=fixed) for fixed in (False, True)
    )
    assert torch.equal(other.response_ids, plain.response_ids)


def test_equal_prompts_are_computed_once() -> None:
    lm = load_causal_lm(resolve("embedded:tiny"))
    ids, mask = prompts()
    which = torch.tensor([3, 0, 3, 1, 3, 0])
    uniforms = torch.rand(6, 10, generator=torch.Generator().manual_seed(1))
    sizes: list[int] = []
    hook = lm.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    together = decode(lm, ids[which], mask[which], SamplingSettings(10), uniforms, EOS, PAD)
    hook.remove()
    assert sizes[:2] == [3, 6]
    for row, prompt in enumerate(which.tolist()):
        alone = decode(lm, ids[[prompt]], mask[[prompt]], SamplingSettings(10), uniforms[[row]], EOS, PAD)
        n = int(together.response_mask[row].sum())
        assert together.response_ids[row, :n].tolist() == alone.response_ids[0].tolist()


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("ndim", [2, 3])
def test_skinny_products_are_those_of_the_layers(rows: int, ndim: int) -> None:
    """bfloat16 results differ by its rounding, 2^-8, at most."""
    layer = torch.nn.Linear(48, 80).bfloat16().requires_grad_(False)
    x = torch.randn(rows, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = x if ndim == 2 else x.unsqueeze(1)
    plain = layer(x)
    with skinny_linears(layer):
        assert "forward" in vars(layer)
        skinny = layer(x)
    assert skinny.shape == plain.shape
    assert torch.allclose(skinny.float(), plain.float(), rtol=2**-7, atol=2**-7)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("vocabulary", [3, 256, 1000])
def test_draws_do_not_depend_on_the_layout_of_the_logits(vocabulary: int) -> None:
    logits = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(7, generator=torch.Generator().manual_seed(1))
    token, logprob = draw(logits, 0.7, uniforms)
    workspace = torch.full((7 * vocabulary + 5,), float("nan"))
    for layout in (logits, logits.t().contiguous().t()):
        again = draw(layout, 0.7, uniforms, workspace)
        assert torch.equal(again[0], token)
        assert torch.allclose(again[1], logprob, atol=1e-6)
    cumulative = (logits.double() / 0.7).softmax(-1).cumsum(-1)
    assert token.tolist() == (cumulative <= uniforms.unsqueeze(1)).sum(1).tolist()
    expected = (logits / 0.7).log_softmax(-1).gather(1, token.unsqueeze(1)).squeeze(1)
    assert torch.allclose(logprob, expected, atol=1e-5)


@pytest.mark.parametrize("likely", [3, 300, 999])
def test_very_large_logits_do_not_overflow(likely: int) -> None:
    logits = torch.zeros(2, 1000)
    logits[:, likely] = 800.0  # exp(800) is infinite
    for layout in (logits, logits.t().contiguous().t()):
        token, logprob = draw(layout, 1.0, torch.tensor([0.2, 0.9]))
        assert token.tolist() == [likely] * 2
        assert logprob.tolist() == [0.0, 0.0]


@pytest.mark.gpu
def test_cuda_graphs_change_no_token() -> None:
    lm = load_causal_lm(resolve("embedded:tiny")).cuda()
    lm.lm_head.bias = torch.nn.Parameter(
        torch.zeros(lm.config.vocab_size).index_fill(0, torch.tensor([EOS]), 3.0).cuda()
    )
    ids, mask = (x.cuda() for x in prompts())
    uniforms = torch.rand(6, 200, generator=torch.Generator().manual_seed(1)).cuda()
    outs = [
        decode(lm, ids, mask, SamplingSettings(200, cuda_graphs=graphs), uniforms, EOS, PAD) for graphs in (False, True)
    ]
    assert torch.equal(outs[0].response_ids, outs[1].response_ids)
    assert torch.allclose(outs[0].logprobs, outs[1].logprobs, atol=1e-4)


@pytest.mark.gpu
def test_a_recorded_step_does_its_work_once_a_call() -> None:
    count = torch.zeros(1, device="cuda")

    def count_up() -> None:
        count.add_(1)

    step = RecordedStep(count_up)
    for calls in range(1, 5):
        step()
        assert int(count) == calls
    assert step.graph is not None


@pytest.mark.gpu
def test_a_step_that_waits_for_the_device_goes_on_unrecorded() -> None:
    count = torch.zeros(1, device="cuda")

    def step() -> None:
        count.add_(1)
        count.item()

    recorded = RecordedStep(step)
    for calls in range(1, 4):
        recorded()
        assert int(count) == calls
    assert recorded.graph is None
