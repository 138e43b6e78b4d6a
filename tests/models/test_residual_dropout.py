"""Residual dropout: set where an architecture has it, refused where not, and not left in what later stages load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import tiny
from rlhf_lightning.models.residual_dropout import residual_dropout
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from tests.ppo.test_ppo_run import trainer

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "word_embed_proj_dim": 16,
    "attention_dropout": 0.0,
}
GPT2 = {"vocab_size": 300, "n_embd": 16, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
FIELDS = {
    "gpt2": "resid_pdrop",
    "gpt_neox": "hidden_dropout",
    "opt": "dropout",
    "stablelm": "hidden_dropout",
    "starcoder2": "residual_dropout",
    "phi": "resid_pdrop",
}


def directory(root: Path, kind: str) -> str:
    """A random model of an architecture, with the tiny tokenizer; no other dropout is on."""
    torch.manual_seed(0)
    settings = GPT2 if kind == "gpt2" else SMALL
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
    config = CONFIG_MAPPING[kind](**settings, **tokens, max_position_embeddings=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / kind)
    tiny.tokenizer().save_pretrained(root / kind)  # type: ignore[attr-defined]
    return str(root / kind)


def outputs(module: SFTModule, training: bool) -> list[torch.Tensor]:
    module.configure_model()
    module.train(training)
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(module.backbone.lm(input_ids=torch.tensor([[3, 4, 5, 6]])).logits)
    return found


@pytest.mark.parametrize("kind", FIELDS)
def test_it_is_on_while_training(tmp_path: Path, kind: str) -> None:
    name = directory(tmp_path, kind)
    found = residual_dropout(0.2, name, "key")
    assert found is not None
    assert found.options == {FIELDS[kind]: 0.2}
    one, two = outputs(SFTModule(name, residual_dropout=0.2), training=True)
    assert not torch.equal(one, two)
    one, two = outputs(SFTModule(name, residual_dropout=0.0), training=True)
    assert torch.equal(one, two)
    one, two = outputs(SFTModule(name, residual_dropout=0.2), training=False)
    assert torch.equal(one, two)


def test_by_default_it_is_the_models_own(tmp_path: Path) -> None:
    module = SFTModule(directory(tmp_path, "gpt2"))
    module.configure_model()
    assert module.backbone.lm.config.resid_pdrop == 0.1
    rates = {m.p for n, m in module.backbone.lm.named_modules() if isinstance(m, nn.Dropout) and "lora" not in n}
    assert rates == {0.0, 0.1}


@pytest.mark.parametrize("kind", ["llama", "mpt"])
def test_an_architecture_without_is_refused(tmp_path: Path, kind: str) -> None:
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"residual_dropout is 0.2.*'{kind}'.*Leave it out"):
        residual_dropout(0.2, str(tmp_path), "model.init_args.base_model")
    assert residual_dropout(0.0, str(tmp_path), "key") is None
    assert residual_dropout(None, str(tmp_path), "key") is None


def test_later_stages_do_not_inherit_it(tmp_path: Path) -> None:
    """Full fine-tuning writes a model directory, which the reward model trains on: with the dropout of the base."""
    name = directory(tmp_path, "gpt2")
    data = DemonstrationDataModule("configs/tiny/data/demonstrations.jsonl", batch_size=8, limit=8)
    module = SFTModule(name, lora=None, residual_dropout=0.2)
    trainer(tmp_path / "run", max_epochs=1).fit(module, datamodule=data)
    config = json.loads((tmp_path / "run" / "final" / "config.json").read_text())
    assert config["resid_pdrop"] == 0.1
    assert module.backbone.lm.config.resid_pdrop == 0.2
