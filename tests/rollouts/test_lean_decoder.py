"""The lean decoder computes what the model computes, and is used only where it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.rollouts import decoding, gpu_decoder, native_engine
from rlhf_lightning.rollouts.engine import Draws, Request
from rlhf_lightning.rollouts.gpu_decoder import GpuDecoder
from rlhf_lightning.rollouts.lean_decoder import LeanDecoder, agrees, fits
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with heads of another size": {"head_dim": 12},
    "llama without sharing of keys": {"num_key_value_heads": 4},
    "mistral": {"sliding_window": None},
    "qwen2": {},
}


def backbone(kind: str, **changes: Any) -> Backbone:
    """A random model with an adapter that does something."""
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3}
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": None,
        "rms_norm_eps": 0.5,
    }
    config = AutoConfig.for_model(kind.split()[0], **(sizes | heads | KINDS.get(kind, {}) | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = Backbone(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval())
        built.add_adapter("policy", LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), trainable=True)
        for parameter in built.parameters():  # norms and biases too
            parameter.data.normal_(0, 0.3)
    return built


def steps(lm: Any, decoder: LeanDecoder) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Hidden states of four tokens after three prompts, ours and theirs; the second row leaves after two."""
    ids = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :3] = mask[2, :1] = False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=lm.config)
    lm.base_model(
        input_ids=ids[:, :5], attention_mask=mask[:, :5], position_ids=positions[:, :5], past_key_values=cache
    )
    decoder.read(cache, torch.arange(3), 9)
    found, rows = [], torch.arange(3)
    for t in range(5, 9):
        if t == 7:
            decoder.keep(torch.tensor([0, 2]))
            rows = torch.tensor([0, 2])
        # On a CPU the columns so far are seen, on a GPU those after them too, masked.
        seen = t + 1 if type(decoder) is LeanDecoder else 9
        so_far = mask[rows, :seen] & (torch.arange(seen) <= t)
        ours = decoder.step(ids[rows, t], so_far, positions[rows, t : t + 1], torch.tensor([t]))
        whole = lm.base_model(
            input_ids=ids[rows, : t + 1], attention_mask=mask[rows, : t + 1], position_ids=positions[rows, : t + 1]
        )
        found.append((ours, whole.last_hidden_state[:, -1]))
    return found


DECODERS = pytest.mark.parametrize("decoder_class", [LeanDecoder, GpuDecoder])


@DECODERS
@pytest.mark.parametrize("adapter", ["policy", None])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_steps_are_the_models_own(kind: str, adapter: str | None, decoder_class: type[LeanDecoder]) -> None:
    model = backbone(kind)
    assert fits(model.lm)
    with model.using(adapter):
        decoder = decoder_class(model.lm, adapter)
        assert agrees(model.lm, decoder)
        for ours, theirs in steps(model.lm, decoder):
            assert torch.allclose(ours, theirs, atol=2e-5)


@DECODERS
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_steps_under_autocast_differ_by_rounding(weights: torch.dtype, decoder_class: type[LeanDecoder]) -> None:
    model = backbone("llama")
    for module in model.lm.modules():
        if "lora_A" not in dict(module.named_children()):
            for name, parameter in module.named_parameters(recurse=False):
                if "lora" not in name:
                    parameter.data = parameter.data.to(weights)
    with torch.autocast("cpu", torch.bfloat16), model.using("policy"):
        decoder = decoder_class(model.lm, "policy")
        for ours, theirs in steps(model.lm, decoder):
            assert (ours.float() - theirs.float()).norm() < 0.04 * theirs.float().norm()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {}),
        ("mistral", {"sliding_window": 4}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"mlp_bias": True}),
    ],
)
def test_other_models_are_left_to_transformers(kind: str, changes: dict[str, Any]) -> None:
    assert not fits(backbone(kind, **changes).lm)


def greedy(model: Backbone, engine: NativeEngine) -> list[list[int]]:
    ids = torch.tensor([[0, 7, 8], [9, 5, 6]])
    request = Request(ids, ids != 0, Draws((7, "rollout", 0, 0), [0, 1]), 1, 0)
    return engine.generate(model, "policy", request, SamplingSettings(6, temperature=0)).response_ids.tolist()


def test_a_model_that_only_looks_alike_is_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = greedy(backbone("llama"), NativeEngine())
    used: list[LeanDecoder | None] = []
    decode = native_engine.decode

    def noting(*arguments: Any, lean: LeanDecoder | None, **options: Any) -> Any:
        used.append(lean)
        return decode(*arguments, lean=lean, **options)

    monkeypatch.setattr(native_engine, "decode", noting)
    model, engine = backbone("llama"), NativeEngine()
    assert greedy(model, engine) == expected
    assert used[-1] is not None
    monkeypatch.setattr(LeanDecoder, "_normal", lambda self, x, weight: x * weight)
    assert greedy(backbone("llama"), engine) == expected
    assert used[-1] is None


def test_each_rollout_has_the_weights_of_its_time() -> None:
    model, engine = backbone("llama"), NativeEngine()
    before = {n: p.clone() for n, p in model.named_parameters()}
    first = greedy(model, engine)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(-3)
    second = greedy(model, engine)
    assert second != first
    assert second == greedy(model, NativeEngine())


def test_a_rollout_leaves_the_gradient_accumulators_of_trained_weights() -> None:
    """DistributedDataParallel's hooks are on them; the decoder's copies are 16-bit under autocast."""
    trained = Backbone(backbone("llama").lm, freeze=False)
    parameters, ids = {n: p for n, p in trained.named_parameters() if ".lora_" not in n}, torch.tensor([[7, 8]])

    def accumulators() -> list[Any]:
        return [p.view_as(p).grad_fn.next_functions[0][0] for p in parameters.values()]

    before = accumulators()
    fired: list[Any] = []
    for node in before:
        node.register_hook(lambda *_: fired.append(1))
    request = Request(ids, ids != 0, Draws((7, "rollout", 0, 0), [0]), 1, 0)
    engine = NativeEngine()
    saved: list[Any] = []

    def save(_: int) -> None:
        """As when the run is told to stop between two tokens."""
        saved.append({n for n, p in trained.named_parameters() if p.requires_grad and ".lora_" not in n})
        assert all(torch.equal(t, parameters[n]) for n, t in trained.state_dict().items() if n in parameters)

    with torch.autocast("cpu", torch.bfloat16):
        engine.generate(trained, None, request, SamplingSettings(3, temperature=0), save)
    assert engine._lean[trained]
    assert saved
    assert all(names == parameters.keys() for names in saved)
    assert not any("weight" in vars(layer) for layer in trained.modules())
    assert all(p is trained.get_parameter(n) and p.dtype is torch.float32 for n, p in parameters.items())
    assert all(a is b for a, b in zip(accumulators(), before, strict=True))
    trained.lm(input_ids=ids).logits.sum().backward()
    assert len(fired) == len(before) > 10


@pytest.mark.parametrize("fixed_shapes", [True, False])
def test_the_gpu_decoder_samples_the_same_while_rows_leave_and_columns_grow(
    monkeypatch: pytest.MonkeyPatch, fixed_shapes: bool
) -> None:
    monkeypatch.setattr(gpu_decoder, "STEP", 4)
    model = backbone("llama")
    ids = torch.randint(3, 50, (6, 5), generator=torch.Generator().manual_seed(2))
    ids[0, :3] = ids[3, :1] = 0
    uniforms = torch.rand(6, 30, generator=torch.Generator().manual_seed(3))

    def sampled(lean: LeanDecoder | None) -> Any:
        settings = SamplingSettings(30, temperature=3.0)
        with model.using(None):
            return decoding.decode(
                model.lm, ids, ids != 0, settings, uniforms, 1, 0, fixed_shapes=fixed_shapes, lean=lean
            )

    theirs, ours = sampled(None), sampled(GpuDecoder(model.lm, None))
    lengths = theirs.response_mask.sum(1)
    assert len(lengths.unique()) > 2  # rows leave one after another
    assert torch.equal(theirs.response_ids, ours.response_ids)
    assert torch.allclose(theirs.logprobs, ours.logprobs, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [True, False])
def test_a_gpu_decodes_what_transformers_does(graphs: bool) -> None:
    from rlhf_lightning.rollouts.transformers_engine import TransformersEngine

    model = backbone("llama").cuda()
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 50, (6, 5), generator=generator).cuda()
    ids[0, :3] = ids[3, :1] = 0
    request = Request(ids, ids != 0, Draws((7, "rollout", 0, 0), list(range(6))), 1, 0)
    settings = SamplingSettings(150, temperature=0, cuda_graphs=graphs)
    engine = NativeEngine()
    ours = [engine.generate(model, "policy", request, settings) for _ in range(3)]
    assert engine._lean[model]
    theirs = TransformersEngine().generate(model, "policy", request, settings)
    assert all(torch.equal(o.response_ids, theirs.response_ids) for o in ours)
