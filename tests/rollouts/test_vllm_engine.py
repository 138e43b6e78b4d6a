"""What the vLLM engine asks of vLLM, with a stand-in for it: that vLLM does it, only vLLM can show."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig

from rlhf_lightning.errors import UserError
from rlhf_lightning.rollouts.choice import build_engine
from rlhf_lightning.rollouts.settings import SamplingSettings, VllmSettings
from tests.rollouts.test_engines import EOS, model, request, responses


class StandIn:
    """Records the calls in order, and answers with the prompt's first token and EOS."""

    def __init__(self, calls: list[tuple[str, Any]], **options: Any) -> None:
        self.calls = calls
        calls.append(("LLM", options))

    def apply_model(self, function: Any) -> None:
        loaded: dict[str, torch.Tensor] = {}
        function(SimpleNamespace(load_weights=lambda pairs: loaded.update({n: w.clone() for n, w in pairs})))
        self.calls.append(("load", loaded))

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        self.calls.append(("generate", (prompts, params)))
        answers = []
        for prompt, one in zip(prompts, params, strict=True):
            tokens = [prompt["prompt_token_ids"][0], *one["stop_token_ids"]][: one["max_tokens"]]
            logprobs = [{t: SimpleNamespace(logprob=-0.5 - i)} for i, t in enumerate(tokens)]
            answers.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, logprobs=logprobs)]))
        return answers

    def __getattr__(self, name: str) -> Any:
        return lambda **options: self.calls.append((name, options))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    recorded: list[tuple[str, Any]] = []
    module: Any = ModuleType("vllm")
    module.LLM = lambda **options: StandIn(recorded, **options)
    module.SamplingParams = dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    return recorded


def test_responses_end_with_eos_or_at_the_limit(calls: list[tuple[str, Any]]) -> None:
    for limit, truncated in ((5, [False, False]), (1, [True, True])):
        settings = SamplingSettings(limit, 0.7, engine="vllm")
        out = build_engine(settings).generate(model(), None, request(2), settings)
        assert responses(out) == [(1, EOS)[:limit], (4, EOS)[:limit]]
        assert out.truncated.tolist() == truncated
        assert out.logprobs.tolist() == [[-0.5, -1.5][:limit]] * 2


def test_it_is_asked_for_a_minimum_length(calls: list[tuple[str, Any]]) -> None:
    for least in (0, 3):
        settings = SamplingSettings(5, engine="vllm", min_response_tokens=least)
        build_engine(settings).generate(model(), None, request(2), settings)
        (_, params) = [c[1] for c in calls if c[0] == "generate"][-1]
        assert [one["min_tokens"] for one in params] == [least, least]


def test_sampling_is_plain_and_seeded_by_row(calls: list[tuple[str, Any]]) -> None:
    settings = SamplingSettings(5, 0.7, engine="vllm", vllm=VllmSettings(memory_fraction=0.3, max_model_len=40))
    build_engine(settings).generate(model(), None, request(4), settings)
    (options,) = (c[1] for c in calls if c[0] == "LLM")
    assert (options["gpu_memory_utilization"], options["max_model_len"], options["dtype"]) == (0.3, 40, "float32")
    assert options["generation_config"] == "vllm"
    assert options["logprobs_mode"] == "processed_logprobs"
    (_, params) = next(c[1] for c in calls if c[0] == "generate")
    for one in params:
        assert (one["temperature"], one["top_p"], one["top_k"], one["max_tokens"]) == (0.7, 1.0, -1, 5)
        assert (one["stop_token_ids"], one["logprobs"]) == ([EOS], 0)
    assert len({one["seed"] for one in params}) == 4
    assert params[2]["seed"] == request(4).draws.row_seed(2)


def test_merged_weights_reach_it_in_memory_before_every_rollout(calls: list[tuple[str, Any]]) -> None:
    backbone = model()
    backbone.add_adapter("policy", LoraConfig(r=2, target_modules=["q_proj", "up_proj"]), trainable=True)
    settings = SamplingSettings(2, engine="vllm")
    engine = build_engine(settings)
    original = backbone.lm.model.layers[0].self_attn.q_proj.base_layer.weight.clone()
    name = "model.layers.0.self_attn.q_proj.weight"
    for scale in (0.0, 1.0):
        with torch.no_grad():
            for key, tensor in backbone.adapter_state("policy").items():
                if "lora_B" in key:
                    tensor.fill_(scale)
        engine.generate(backbone, "policy", request(2), settings)
        loaded = [c[1] for c in calls if c[0] == "load"][-1]
        assert sorted(loaded) == sorted(
            f"model.layers.{i}.{n}.weight" for i in (0, 1) for n in ("self_attn.q_proj", "mlp.up_proj")
        )
        layer = backbone.lm.model.layers[0].self_attn.q_proj
        assert torch.equal(loaded[name], original + layer.get_delta_weight("policy").detach())
        assert torch.equal(loaded[name], original) == (scale == 0)
    assert torch.equal(backbone.lm.model.layers[0].self_attn.q_proj.base_layer.weight, original)
    steps = [c if c[0] in ("wake_up", "sleep") else c[0] for c in calls]
    first = ["LLM", "load", "reset_prefix_cache", "generate", ("sleep", {"level": 1})]
    again = [("wake_up", {"tags": ["weights"]}), *first[1:3], ("wake_up", {"tags": ["kv_cache"]}), *first[3:]]
    assert steps == first + again


def test_full_fine_tuning_sends_all_weights_and_without_sleep_it_stays_awake(calls: list[tuple[str, Any]]) -> None:
    backbone, settings = model(), SamplingSettings(2, engine="vllm", vllm=VllmSettings(sleep=False))
    build_engine(settings).generate(backbone, None, request(2), settings)
    loaded = next(c[1] for c in calls if c[0] == "load")
    assert loaded.keys() == dict(backbone.lm.named_parameters()).keys()
    assert not any(c[0] in ("sleep", "wake_up") for c in calls)


def test_without_vllm_the_key_and_the_fix_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"sampling\.engine is vllm, which cannot be imported.*pip install"):
        build_engine(SamplingSettings(engine="vllm"))


def test_a_vllm_in_another_process_is_refused(calls: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(UserError, match="VLLM_ENABLE_V1_MULTIPROCESSING"):
        build_engine(SamplingSettings(engine="vllm"))
