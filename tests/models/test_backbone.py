"""Adapters on one frozen base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.scalar_head import ScalarHead
from rlhf_lightning.models.sources import resolve


@pytest.fixture
def lm() -> object:
    return load_causal_lm(resolve("embedded:tiny"))


IDS = torch.randint(3, 200, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 7, dtype=torch.bool)


def randomize(backbone: Backbone, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in backbone.adapter_state(name).values():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))


def two_adapters(lm: object) -> Backbone:
    backbone = Backbone(lm)
    for seed, name in enumerate(("a", "b")):
        backbone.add_adapter(name, LoraSettings(rank=4).peft_config(), trainable=True)
        randomize(backbone, name, seed)
    return backbone


def test_a_fresh_adapter_equals_the_base_exactly(lm: object) -> None:
    before = Backbone(lm).hidden(IDS, MASK)
    backbone = Backbone(lm)
    backbone.add_adapter("a", LoraSettings().peft_config(), trainable=True)
    with backbone.using("a"):
        assert torch.equal(backbone.hidden(IDS, MASK), before)
    assert torch.equal(backbone.hidden(IDS, MASK), before)


def test_switching_trains_every_adapter_and_nothing_else(lm: object) -> None:
    backbone = two_adapters(lm)
    with backbone.using("a"):
        first = backbone.hidden(IDS, MASK).sum()
    with backbone.using("b"):
        second = backbone.hidden(IDS, MASK).square().sum()
    (first + second).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == (".lora_" in name), name
        if parameter.grad is not None:
            assert parameter.grad.abs().sum() > 0


def test_the_adapter_is_back_after_an_error(lm: object) -> None:
    backbone = two_adapters(lm)
    with backbone.using("a"):
        expected = backbone.hidden(IDS, MASK)
        with pytest.raises(RuntimeError), backbone.using("b"):
            raise RuntimeError
        assert torch.equal(backbone.hidden(IDS, MASK), expected)


def test_merging_gives_the_adapters_outputs_and_puts_the_base_back_bit_for_bit(lm: object) -> None:
    backbone = two_adapters(lm)
    base = {n: p.clone() for n, p in backbone.named_parameters()}
    with backbone.using("a"):
        expected = backbone.hidden(IDS, MASK)
    with pytest.raises(RuntimeError), backbone.merged("a"):
        assert torch.allclose(backbone.hidden(IDS, MASK), expected, atol=1e-5)
        raise RuntimeError
    assert all(torch.equal(p, base[n]) for n, p in backbone.named_parameters())


@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_no_hidden_state(lm: object, left: bool) -> None:
    backbone = Backbone(lm)
    pad = torch.full((3, 4), 7)
    none = torch.zeros(3, 4, dtype=torch.bool)
    ids = torch.cat([pad, IDS] if left else [IDS, pad], 1)
    mask = torch.cat([none, MASK] if left else [MASK, none], 1)
    hidden = backbone.hidden(ids, mask)
    kept = hidden[:, 4:] if left else hidden[:, :7]
    assert torch.allclose(kept, backbone.hidden(IDS, MASK), atol=1e-6)


def test_target_modules_that_match_nothing_are_named(lm: object) -> None:
    with pytest.raises(ValueError, match="not found .* The model's layers: .*q_proj"):
        Backbone(lm).add_adapter("a", LoraSettings(target_modules=["nothing"]).peft_config(), trainable=True)


@pytest.mark.parametrize("modules", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"], ".*(_proj|lm_head|tokens)"])
def test_embeddings_and_the_unembedding_get_no_adapter(lm: object, modules: str | list[str]) -> None:
    """Their adapters would be trained or sampled with in part of the places only, or nowhere."""
    named = "lm_head, model.embed_tokens" if isinstance(modules, str) else modules[1]
    message = f"embeddings and the unembedding .* leave .*{named} out of model.init_args.lora.target_modules"
    with pytest.raises(ValueError, match=message):
        Backbone(lm).add_adapter("a", LoraSettings(target_modules=modules).peft_config(), trainable=True)


def test_the_unembedding_is_not_among_the_layers_to_choose_from(lm: object) -> None:
    with pytest.raises(ValueError, match="The model's layers: (?!.*lm_head)"):
        Backbone(lm).add_adapter("a", LoraSettings(target_modules=["nothing"]).peft_config(), trainable=True)


def narrow_opt() -> OPTForCausalLM:
    """As OPT-350m: layers of one width, embeddings and final hidden states of another."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 2}
    return OPTForCausalLM(OPTConfig(vocab_size=210, num_attention_heads=4, max_position_embeddings=32, **sizes)).eval()


def test_a_head_fits_hidden_states_that_are_projected() -> None:
    backbone = Backbone(narrow_opt())
    assert backbone.hidden_size == 16
    assert ScalarHead(backbone.hidden_size)(backbone.hidden(IDS, MASK)).shape == (3, 7)


def test_an_unembedding_without_a_plain_weight_leaves_the_size_to_the_configuration(lm: Any) -> None:
    lm.lm_head.weight = torch.nn.Parameter(torch.zeros(100, 1, dtype=torch.uint8), requires_grad=False)
    assert Backbone(lm).hidden_size == 64
    lm.set_output_embeddings(torch.nn.Identity())
    assert Backbone(lm).hidden_size == 64
