"""From a source to a backbone: what does not fit is said with its key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_lightning.artefacts import ADAPTER_FILE, Source
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import build_backbone, check_classifier, save_full
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.scalar_head import ScalarHead
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.reward.module import RewardModule

TINY, KEY = "embedded:tiny", "model.init_args.init_from"
OUT = "out of model.init_args.lora.target_modules"


def peft_adapter(directory: Path, modules: list[str]) -> Source:
    """An adapter on the tiny model as PEFT itself writes it."""
    wrapped = get_peft_model(load_causal_lm(resolve(TINY)), LoraConfig(r=2, target_modules=modules))
    wrapped.peft_config["default"].save_pretrained(str(directory))
    tensors = {n.replace(".default", ""): p.detach() for n, p in wrapped.named_parameters() if ".lora_" in n}
    save_file(tensors, directory / ADAPTER_FILE)
    return Source(resolve(TINY), "theirs", None, directory, resolve(TINY))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("lora", [LoraSettings(), None], ids=["continued", "merged"])
@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_adapters_of_others_on_embeddings_are_refused(tmp_path: Path, layer: str, lora: LoraSettings | None) -> None:
    """Merged into a tied unembedding, an adapter would change the embedding too."""
    source = peft_adapter(tmp_path, ["q_proj", layer])
    with pytest.raises(UserError, match=rf"{KEY}: the adapter in .* does not fit .*: embeddings .*{layer} {OUT}"):
        build_backbone(source, lora, torch.float32, KEY)


@pytest.mark.parametrize("lora", [LoraSettings(), None], ids=["continued", "merged"])
def test_adapters_of_others_on_linear_layers_go_on(tmp_path: Path, lora: LoraSettings | None) -> None:
    backbone = build_backbone(peft_adapter(tmp_path, ["q_proj"]), lora, torch.float32, KEY)
    assert backbone.adapters == (["policy"] if lora else [])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_fresh_adapter_on_embeddings_is_refused() -> None:
    source = Source(resolve(TINY), TINY, None, None, resolve(TINY))
    settings = LoraSettings(target_modules=["q_proj", "lm_head"])
    with pytest.raises(UserError, match=rf"^model.init_args.lora.target_modules: embeddings .*lm_head {OUT}"):
        build_backbone(source, settings, torch.float32, KEY)


SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
NARROW = {"word_embed_proj_dim": 8, "ffn_dim": 16}


def whole(model_type: str, **sizes: int) -> Backbone:
    config = AutoConfig.for_model(model_type, **(SIZES | sizes))
    return Backbone(AutoModelForCausalLM.from_config(config), freeze=False)


@pytest.mark.parametrize(("model_type", "sizes"), [("llama", {}), ("gpt_neox", {}), ("opt", NARROW), ("bloom", {})])
def test_a_whole_reward_model_that_passes_the_check_can_be_written(
    tmp_path: Path, model_type: str, sizes: dict[str, int]
) -> None:
    backbone = whole(model_type, **sizes)
    check_classifier(backbone)
    save_full(tmp_path, backbone, ScalarHead(backbone.hidden_size))


def test_a_classifier_with_another_head_is_none() -> None:
    with pytest.raises(UserError, match="^model.init_args.lora: null trains all weights.* none for ctrl models"):
        check_classifier(whole("ctrl", dff=16))


@pytest.mark.parametrize("lora", [LoraSettings(), None], ids=["adapters", "whole"])
def test_a_reward_model_that_could_not_be_written_is_not_trained(tmp_path: Path, lora: LoraSettings | None) -> None:
    model = shutil.copytree(resolve(TINY), tmp_path / "granite")
    whole("granite", vocab_size=300).lm.save_pretrained(model)
    module = RewardModule(str(model), lora)
    if lora:
        module.configure_model()
    else:
        with pytest.raises(UserError, match="^model.init_args.lora: .* none for granite models"):
            module.configure_model()
