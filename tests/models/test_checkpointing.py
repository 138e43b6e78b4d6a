"""Gradient checkpointing: the same gradients, dropout and adapter as without, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.checkpointing import checkpointed
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.ragged import from_lengths
from rlhf_lightning.models.sources import resolve

BATCH = from_lengths(torch.arange(3, 12), torch.tensor([4, 5]))


@pytest.fixture
def backbone() -> Backbone:
    made = Backbone(load_causal_lm(resolve("embedded:tiny")))
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        made.add_adapter(name, LoraSettings(rank=4, dropout=0.3).peft_config(), trainable=True)
        with torch.no_grad():
            for tensor in made.adapter_state(name).values():
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return made


def layers(backbone: Backbone) -> list[GradientCheckpointingLayer]:
    return [m for m in backbone.modules() if isinstance(m, GradientCheckpointingLayer)]


def gradients(backbone: Backbone, checkpointing: bool) -> list[Tensor | None]:
    backbone.gradient_checkpointing = checkpointing
    backbone.zero_grad()
    torch.manual_seed(5)
    with backbone.using("a"):
        first = backbone.hidden_ragged(BATCH).square().sum()
    with backbone.using("b"):
        (first + backbone.hidden_ragged(BATCH).sin().sum()).backward()
    return [p.grad for p in backbone.parameters() if p.requires_grad]


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_without(backbone: Backbone, training: bool) -> None:
    """Exactly: in training the second computation draws the same dropout, in evaluation mode there is none."""
    backbone.train(training)
    plain, recomputed = gradients(backbone, False), gradients(backbone, True)
    assert all(a is not None and a.any() for a in plain)
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_the_adapter_in_use_is_again_in_use_after_a_backward(backbone: Backbone) -> None:
    backbone.eval()
    backbone.gradient_checkpointing = True
    with backbone.using("a"):
        loss = backbone.hidden_ragged(BATCH).sum()
    with torch.no_grad():
        base = backbone.hidden_ragged(BATCH)
        with backbone.using("b"):
            other = backbone.hidden_ragged(BATCH)
    with backbone.using("b"):
        loss.backward()
        with torch.no_grad():
            assert torch.equal(backbone.hidden_ragged(BATCH), other)
    with torch.no_grad():
        assert torch.equal(backbone.hidden_ragged(BATCH), base)


def test_layers_are_computed_twice_and_without_gradients_once(backbone: Backbone) -> None:
    backbone.gradient_checkpointing = True
    calls: list[bool] = []
    counted = layers(backbone)[0].self_attn  # type: ignore[union-attr]
    counted.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with backbone.using("a"):
        loss = backbone.hidden_ragged(BATCH).sum()
        assert len(calls) == 1
        loss.backward()
        assert len(calls) == 2
        with torch.no_grad():
            backbone.hidden_ragged(BATCH)
    assert len(calls) == 3


def test_layers_get_their_forward_back(backbone: Backbone) -> None:
    with pytest.raises(RuntimeError, match="in between"), checkpointed(backbone.lm):
        assert all("forward" in vars(layer) for layer in layers(backbone))
        raise RuntimeError("in between")
    assert not any("forward" in vars(layer) for layer in layers(backbone))
    with torch.no_grad(), checkpointed(backbone.lm):
        assert not any("forward" in vars(layer) for layer in layers(backbone))


def test_a_model_without_adapters() -> None:
    backbone = Backbone(load_causal_lm(resolve("embedded:tiny")), freeze=False)
    ends = []
    for checkpointing in (False, True):
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        backbone.hidden_ragged(BATCH).sum().backward()
        ends.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    assert len(ends[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_trained_model_without_such_layers_is_refused() -> None:
    """Nothing would be saved. A frozen one is not checkpointed anyway."""
    lm = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    frozen = Backbone(lm)
    frozen.gradient_checkpointing = True
    assert frozen.gradient_checkpointing
    trained = Backbone(lm, freeze=False)
    trained.gradient_checkpointing = False
    key = "model.init_args.memory.gradient_checkpointing"
    with pytest.raises(UserError, match=f"{key}: transformers' OpenAIGPTLMHeadModel has no layers"):
        trained.gradient_checkpointing = True
    assert not trained.gradient_checkpointing
