"""Whole models without padding: what each sequence gives alone, whatever the architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.ragged import Ragged, from_lengths, from_prompts
from rlhf_lightning.models.ragged_attention import NAME
from rlhf_lightning.models.ragged_support import enable_ragged, reads_ragged

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "llama": ({}, True),
    "qwen2": ({}, True),
    "qwen3": ({}, True),
    "gpt_neox": ({}, True),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40}, True),
    "mistral": ({"sliding_window": 6}, False),  # sequences longer than the window
    "gemma2": ({"query_pre_attn_scalar": 4}, False),  # soft cap
    "bloom": ({"hidden_size": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40}, False),  # a bias of its own
}
LENGTHS = [5, 1, 8, 3]


def make(name: str) -> Any:
    settings, _ = MODELS[name]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**(settings if "n_layer" in settings else SMALL | settings))
    lm = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    enable_ragged(lm)
    return lm


def prompts_and_responses() -> tuple[Ragged, list[list[int]]]:
    prompts, responses = torch.randint(1, 40, (2, 3)), torch.randint(1, 40, (5, 4))
    after = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4]).unsqueeze(1)
    owner = torch.tensor([0, 0, 0, 1, 1])
    batch = from_prompts(prompts, torch.ones(2, 3, dtype=torch.bool), responses, after, owner)
    rows = [prompts[b].tolist() + responses[i][after[i]].tolist() for i, b in enumerate(owner.tolist())]
    return batch, rows


def separately(lm: Any, rows: list[list[int]]) -> list[Tensor]:
    return [lm.base_model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in rows]


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_those_of_separate_sequences(name: str) -> None:
    lm = make(name)
    torch.manual_seed(1)
    ids = torch.randint(1, 40, (sum(LENGTHS),))
    plain = from_lengths(ids, torch.tensor(LENGTHS))
    assert reads_ragged(lm, plain) == MODELS[name][1]
    backbone = Backbone(lm)
    expected = torch.cat(separately(lm, [part.tolist() for part in ids.split(LENGTHS)]))
    assert torch.allclose(backbone.hidden_ragged(plain), expected, atol=1e-4)
    shared, rows = prompts_and_responses()
    own = torch.cat([h[3:] for h in separately(lm, rows)])
    assert torch.allclose(backbone.hidden_ragged(shared)[6:], own, atol=1e-4)


def test_a_model_that_looks_across_a_row_is_padded() -> None:
    """A state that runs along the row, as recurrent layers have, reads the neighbour."""
    lm = make("llama")
    lm.set_attn_implementation("sdpa")
    layer = lm.model.layers[0]
    forward = layer.forward
    layer.forward = lambda x, *args, **kwargs: forward(x, *args, **kwargs) + x.cumsum(1)
    enable_ragged(lm)
    assert lm.config._attn_implementation == "sdpa"


def test_sequences_within_the_window_are_not_padded() -> None:
    lm = make("mistral")
    assert lm.config._attn_implementation == NAME
    assert reads_ragged(lm, from_lengths(torch.ones(8, dtype=torch.long), torch.tensor([6, 2])))
    assert not reads_ragged(lm, from_lengths(torch.ones(9, dtype=torch.long), torch.tensor([7, 2])))


def randomized(backbone: Backbone, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in backbone.adapter_state(name).values():
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_checkpointing_recomputes_with_the_adapter_of_the_forward(shared: bool) -> None:
    """Both backwards come after both forwards, when no adapter is active; exactly the same gradients."""
    torch.manual_seed(2)
    backbone = Backbone(make("llama"))
    for seed, name in enumerate(("a", "b")):
        backbone.add_adapter(name, LoraSettings(rank=4).peft_config(), trainable=True)
        randomized(backbone, name, seed)
    batch = prompts_and_responses()[0] if shared else from_lengths(torch.arange(1, 10), torch.tensor([4, 5]))

    def gradients(checkpointing: bool) -> list[Tensor | None]:
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        with backbone.using("a"):
            first = backbone.hidden_ragged(batch).square().sum()
        with backbone.using("b"):
            second = backbone.hidden_ragged(batch).sin().sum()
        (first + second).backward()
        return [p.grad for p in backbone.parameters() if p.requires_grad]

    plain, recomputed = gradients(False), gradients(True)
    assert all(a is not None and torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_gradient_checkpointing_keeps_less() -> None:
    backbone = Backbone(make("llama"))
    backbone.add_adapter("a", LoraSettings(rank=4).peft_config(), trainable=True)
    batch = from_lengths(torch.arange(1, 31), torch.tensor([10, 20]))

    def kept(checkpointing: bool) -> int:
        held: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        backbone.gradient_checkpointing = checkpointing
        weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), backbone.using("a"):
            alive = backbone.hidden_ragged(batch)
        assert alive.requires_grad
        return sum(size for pointer, size in held.items() if pointer not in weights)

    assert kept(True) < 0.35 * kept(False)
