"""The engines sample one distribution, and say with which probability."""

from __future__ import annotations

import contextlib
import gc
import math
from itertools import product
from typing import Any

import pytest
import torch

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.rollouts.choice import build_engine
from rlhf_lightning.rollouts.decoding import Batch
from rlhf_lightning.rollouts.engine import Draws, Generated, Request
from rlhf_lightning.rollouts.lean_decoder import LeanDecoder
from rlhf_lightning.rollouts.settings import EngineName, SamplingSettings

EOS, PAD, VOCABULARY, LIMIT = 3, 0, 6, 3
ENGINES: tuple[EngineName, ...] = ("native", "transformers")


def model(seed: int = 0) -> Backbone:
    """Six tokens, and logits far enough apart to be told apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = LlamaForCausalLM(config).eval()
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter.data.normal_(0, 0.4)
    return Backbone(lm)


def request(rows: int, purpose: str = "rollout") -> Request:
    """Two prompts of different length in turn."""
    ids = torch.tensor([[PAD, 1, 2], [4, 5, 1]]).repeat(rows // 2, 1)
    return Request(ids, ids != PAD, Draws((7, purpose, 0, 0), list(range(rows))), EOS, PAD)


@torch.no_grad()
def exact(lm: Any, prompt: list[int], temperature: float, first_eos: int = 0) -> dict[tuple[int, ...], float]:
    """Probability of every response there is."""
    found: dict[tuple[int, ...], float] = {}
    for tokens in product(range(VOCABULARY), repeat=LIMIT):
        end = tokens.index(EOS) + 1 if EOS in tokens else LIMIT
        response = tokens[:end]
        if response not in found:
            logits = lm(input_ids=torch.tensor([[*prompt, *response]])).logits[0].double() / temperature
            logits[len(prompt) - 1 : len(prompt) - 1 + first_eos, EOS] = -math.inf
            logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            found[response] = math.exp(sum(float(logprobs[i, t]) for i, t in enumerate(response)))
    assert math.isclose(sum(found.values()), 1, abs_tol=1e-6)
    return found


@pytest.mark.parametrize("fails", [False, True])
def test_copies_of_weights_and_the_cache_go_with_the_rollout(fails: bool) -> None:
    """At once, and not when Python next looks for reference cycles: an update would find them still there."""
    backbone, settings = model(), SamplingSettings(LIMIT)
    engine = build_engine(settings)
    engine.generate(backbone, None, request(4), settings)  # compares the decoder with the model, once

    def stop(_: int) -> None:
        if fails:
            raise KeyboardInterrupt

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            engine.generate(backbone, None, request(4), settings, stop)
        left = [type(o).__name__ for o in gc.get_objects() if type(o) in (Batch, LeanDecoder)]
    finally:
        gc.enable()
    assert left == []


def responses(out: Generated) -> list[tuple[int, ...]]:
    return [tuple(ids[mask].tolist()) for ids, mask in zip(out.response_ids, out.response_mask, strict=True)]


@pytest.mark.parametrize(("temperature", "first_eos"), [(1.0, 0), (0.7, 0), (0.7, 2), (1.0, LIMIT)])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_samples_the_models_distribution(name: EngineName, temperature: float, first_eos: int) -> None:
    """Chi-square over whole responses, EOS and lengths included; 5 standard deviations of the statistic."""
    backbone, rows = model(), 20_000
    settings = SamplingSettings(LIMIT, temperature, batch_size=10_000, engine=name, min_response_tokens=first_eos)
    out = build_engine(settings).generate(backbone, None, request(rows), settings)
    sampled = responses(out)
    for number, prompt in enumerate(([1, 2], [4, 5, 1])):
        expected = {r: p for r, p in exact(backbone.lm, prompt, temperature, first_eos).items() if p > 0}
        counts = dict.fromkeys(expected, 0)  # what has no probability must not come: a KeyError
        for response in sampled[number::2]:
            counts[response] += 1
        statistic, cells, rare_count, rare_expected = 0.0, 0, 0, 0.0
        for response, probability in expected.items():
            mean = probability * rows / 2
            if mean < 10:
                rare_count, rare_expected = rare_count + counts[response], rare_expected + mean
            else:
                statistic, cells = statistic + (counts[response] - mean) ** 2 / mean, cells + 1
        statistic, cells = statistic + (rare_count - rare_expected) ** 2 / max(rare_expected, 1), cells + 1
        assert cells > 20
        assert statistic < cells + 5 * math.sqrt(2 * cells)


@pytest.mark.parametrize("first_eos", [0, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("name", ENGINES)
def test_log_probabilities_are_those_of_a_plain_forward(name: EngineName, temperature: float, first_eos: int) -> None:
    backbone = model()
    settings = SamplingSettings(LIMIT, temperature, engine=name, min_response_tokens=first_eos)
    out = build_engine(settings).generate(backbone, None, request(40), settings)
    prompts = [[1, 2], [4, 5, 1]] * 20
    for row, response in enumerate(responses(out)):
        with torch.no_grad():
            logits = backbone.lm(input_ids=torch.tensor([[*prompts[row], *response]])).logits[0]
        logits[len(prompts[row]) - 1 : len(prompts[row]) - 1 + first_eos, EOS] = -math.inf
        expected = (logits / (temperature or 1.0)).log_softmax(-1)[len(prompts[row]) - 1 : -1]
        expected = expected.gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)
        assert torch.allclose(out.logprobs[row][out.response_mask[row]], expected, atol=1e-5)
        assert bool(out.truncated[row]) == (EOS not in response)
    assert not out.logprobs[~out.response_mask].any()
    assert (out.response_ids[~out.response_mask] == PAD).all()


def test_engines_agree_where_nothing_is_random() -> None:
    backbone = model()
    outs = []
    for name in ENGINES:
        settings = SamplingSettings(LIMIT, 0.0, engine=name)
        outs.append(build_engine(settings).generate(backbone, None, request(6), settings))
    assert responses(outs[0]) == responses(outs[1])


@pytest.mark.parametrize("name", ENGINES)
def test_the_same_key_draws_the_same_and_leaves_torchs_generator_alone(name: EngineName) -> None:
    backbone, settings = model(), SamplingSettings(LIMIT, engine=name)
    before = torch.get_rng_state()
    outs = [
        build_engine(settings).generate(backbone, None, request(40, purpose), settings) for purpose in ("a", "a", "b")
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert responses(outs[0]) == responses(outs[1]) != responses(outs[2])


def test_the_models_own_generation_settings_do_not_count() -> None:
    """A generation_config.json with penalties would sample something else than what is trained."""
    backbone, settings = model(), SamplingSettings(LIMIT, engine="transformers")
    plain = build_engine(settings).generate(backbone, None, request(40), settings)
    backbone.lm.generation_config.update(repetition_penalty=9.0, min_new_tokens=3, suppress_tokens=[1, 2])
    own = backbone.lm.generation_config
    assert responses(build_engine(settings).generate(backbone, None, request(40), settings)) == responses(plain)
    assert backbone.lm.generation_config is own


@pytest.mark.parametrize("name", ENGINES)
def test_every_token_is_reported(name: EngineName) -> None:
    seen: list[int] = []
    settings = SamplingSettings(LIMIT, batch_size=16, engine=name)
    out = build_engine(settings).generate(model(), None, request(40), settings, seen.append)
    assert sum(seen) == int(out.response_mask.sum())


def test_batches_change_no_row() -> None:
    """Batches go by length; every row is back in its place with its own draws."""
    backbone = model()
    outs = [
        build_engine(s).generate(backbone, None, request(40), s)
        for s in (SamplingSettings(LIMIT, batch_size=n) for n in (64, 7, 1))
    ]
    assert responses(outs[0]) == responses(outs[1]) == responses(outs[2])
    assert torch.allclose(outs[0].logprobs, outs[1].logprobs, atol=1e-5)
