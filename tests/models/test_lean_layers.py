"""Layers in fewer operations: the model's own numbers and gradients, and nothing for layers of another kind."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from rlhf_lightning.models import ragged_support
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.lean_layers import MODELS, _Rotation, is_lean
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.ragged import Ragged, from_lengths, from_prompts
from rlhf_lightning.models.ragged_support import enable_ragged

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}


def model(name: str, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**SIZES, **settings)).to(dtype).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return lm


def own_layers(lm: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Without padding, by the model's own layers."""
    with monkeypatch.context() as patch:
        patch.setattr(ragged_support, "lean_layers", lambda lm: nullcontext())
        enable_ragged(lm)
    assert not is_lean(lm)
    return lm


def batch(shared: bool) -> Ragged:
    if not shared:
        return from_lengths(torch.randint(1, 40, (17,)), torch.tensor([5, 1, 8, 3]))
    after = torch.arange(4) < torch.tensor([4, 2, 3]).unsqueeze(1)
    prompts, responses = torch.randint(1, 40, (2, 3)), torch.randint(1, 40, (3, 4))
    return from_prompts(prompts, torch.ones(2, 3, dtype=torch.bool), responses, after, torch.tensor([0, 0, 1]))


def outcome(lm: Any, tokens: Ragged, adapter: bool, targets: str | list[str] = "all-linear") -> list[Tensor]:
    """Hidden states, and gradients of the adapter or of all weights."""
    backbone = Backbone(lm, freeze=adapter)
    if adapter:
        backbone.add_adapter("a", LoraSettings(rank=3, target_modules=targets).peft_config(), trainable=True)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in backbone.adapter_state("a").values():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        backbone.to(torch.float64)
    with backbone.using("a" if adapter else None):
        hidden = backbone.hidden_ragged(tokens)
        with torch.no_grad():
            assert torch.allclose(backbone.hidden_ragged(tokens), hidden, atol=1e-12)
    trained = [p for n, p in backbone.named_parameters() if p.requires_grad and "lm_head" not in n]
    return [hidden, *torch.autograd.grad(hidden.sin().sum(), trained, materialize_grads=True)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
def test_outputs_and_gradients_are_the_models_own(
    name: str, shared: bool, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, ours, theirs = batch(shared), model(name), own_layers(model(name), monkeypatch)
    enable_ragged(ours)
    assert is_lean(ours)
    pairs = zip(outcome(ours, tokens, adapter), outcome(theirs, tokens, adapter), strict=True)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in pairs)


@pytest.mark.parametrize("targets", [["gate_proj", "down_proj"], ["up_proj", "down_proj"], ["down_proj"]])
def test_an_adapted_gate_beside_an_up_that_is_not(targets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first layer only one factor of the down projection's input then has a gradient, or none."""
    tokens, ours, theirs = batch(False), model("llama"), own_layers(model("llama"), monkeypatch)
    enable_ragged(ours)
    found, expected = (outcome(lm, tokens, True, targets) for lm in (ours, theirs))
    assert all(g.abs().sum() > 0 for g in found[1:])
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
def test_in_16_bit_too_every_number_is_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (model("llama", torch.bfloat16) for _ in range(2))
    enable_ragged(ours)
    tokens, own = batch(False), own_layers(theirs, monkeypatch)
    assert is_lean(ours)
    assert torch.equal(*(Backbone(lm).hidden_ragged(tokens) for lm in (ours, own)))


@torch.no_grad()
def test_padded_batches_and_caches_go_the_models_own_way() -> None:
    ours, theirs = model("llama"), model("llama")
    enable_ragged(ours)
    assert is_lean(ours)
    ids = torch.randint(1, 40, (2, 5))
    assert torch.equal(*(lm(input_ids=ids, use_cache=False).logits for lm in (ours, theirs)))
    cached = [lm(input_ids=ids[:, :4], use_cache=True).past_key_values for lm in (ours, theirs)]
    last = [lm(input_ids=ids[:, 4:], past_key_values=c).logits for lm, c in zip((ours, theirs), cached, strict=True)]
    assert torch.equal(*last)


def test_dropout_of_attention_is_kept() -> None:
    lm = model("llama", attention_dropout=0.5)
    enable_ragged(lm)
    assert is_lean(lm)
    backbone, tokens = Backbone(lm), batch(False)
    still = backbone.hidden_ragged(tokens)
    assert torch.equal(still, backbone.hidden_ragged(tokens))
    assert not torch.allclose(still, backbone.train().hidden_ragged(tokens))


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_other_layers_under_a_known_name_stay_as_they_are(part: str) -> None:
    """A model that calls itself Llama, with something else in its layers; ragged it can still be."""
    lm = model("llama")
    module = getattr(lm.base_model.layers[1], part)
    projection = module.o_proj if part == "self_attn" else module.down_proj
    own = type(module)

    class Other(own):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            handle = projection.register_forward_hook(lambda *_: 2 * _[2])
            out = super().forward(*args, **kwargs)
            handle.remove()
            return out

    module.__class__ = Other
    enable_ragged(lm)
    assert not is_lean(lm)
    assert type(module) is Other
    assert lm.config._attn_implementation == ragged_support.ragged_attention.NAME


@pytest.mark.parametrize(("name", "settings"), [("qwen3", {}), ("llama", {"hidden_act": "gelu"})])
def test_other_models_keep_their_layers(name: str, settings: dict[str, Any]) -> None:
    lm = model(name, **settings)
    enable_ragged(lm)
    assert not is_lean(lm)
    assert lm.config._attn_implementation == ragged_support.ragged_attention.NAME


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rotation_and_its_gradient(dtype: torch.dtype) -> None:
    """The angles of both halves differ here, so that none is taken for the other; float32 inputs become float64."""
    generator = torch.Generator().manual_seed(0)
    x, cotangent, cos, sin = (
        torch.randn(s, generator=generator).double() for s in ((5, 3, 6), (5, 3, 6), (5, 6), (5, 6))
    )
    x = x.to(dtype).requires_grad_()
    expected = apply_rotary_pos_emb(x[None], x[None], cos[None], sin[None], unsqueeze_dim=2)[0][0]
    found = _Rotation.apply(x, cos, sin)
    gradients = [torch.autograd.grad((out * cotangent).sum(), x)[0] for out in (found, expected)]
    assert torch.equal(found, expected)
    assert gradients[0].dtype == dtype
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6 if dtype == torch.float32 else 1e-12)
