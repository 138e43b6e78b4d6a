"""Directories from somewhere else: nothing in them is executed, and nothing outside them is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.sft.module import SFTModule
from tests.security.traps import Trap, edit, refusal

# -- pickles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt"])
def test_pickled_weights_are_refused_and_never_read(model: Path, proof: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(proof)))
    message = refusal(model)
    assert f"{model / name} is a pickled file" in message
    assert "safetensors" in message.partition("Get or save")[2]
    assert not proof.exists()


def test_pickled_shards_are_refused(model: Path, proof: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model-00001-of-00001.bin").write_bytes(pickle.dumps(Trap(proof)))
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model-00001-of-00001.bin"}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "is a pickled file" in refusal(model)
    assert not proof.exists()


@pytest.mark.parametrize("link", ["weights", "index"])
def test_a_pickle_called_safetensors_is_not_unpickled(model: Path, proof: Path, link: str) -> None:
    if link == "weights":
        (model / "model.safetensors").write_bytes(pickle.dumps(Trap(proof)))
    else:
        (model / "model.safetensors").rename(model / "other")
        (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(proof)))
        index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "cannot load a causal LM" in refusal(model)
    assert not proof.exists()


def test_safetensors_beside_a_pickle_are_used(model: Path, proof: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(proof)))
    SFTModule(str(model)).configure_model()
    assert not proof.exists()


def test_a_pickled_adapter_is_refused(artefact: Path, proof: Path) -> None:
    (artefact / "adapter_model.safetensors").unlink()
    (artefact / "adapter_model.bin").write_bytes(pickle.dumps(Trap(proof)))
    message = refusal(artefact.parent)
    assert f"{artefact / 'adapter_model.bin'} is a pickled file" in message
    assert not proof.exists()


def test_a_pickled_tokenizer_is_refused(model: Path, proof: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.pkl").write_bytes(pickle.dumps(Trap(proof)))
    assert f"{model / 'tokenizer.pkl'} is a pickled tokenizer" in refusal(model)
    assert not proof.exists()


def test_an_adapter_in_a_model_directory_is_not_added(model: Path, artefact: Path, proof: Path) -> None:
    """transformers would load it along with the model, from `adapter_model.bin` if need be."""
    shutil.copy(artefact / "adapter_config.json", model)
    (model / "adapter_model.bin").write_bytes(pickle.dumps(Trap(proof)))
    assert "holds an adapter" in refusal(model)
    assert not proof.exists()


# -- places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", ["../other.safetensors", "/tmp/other.safetensors", "sub/x.safetensors", "..", ""])
def test_shards_are_in_the_directory(model: Path, shard: str) -> None:
    (model / "model.safetensors").rename(model.parent / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"names a shard outside its directory, {shard!r}" in refusal(model)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, "[" * 10**5])
def test_a_damaged_index_is_named(model: Path, index: Any) -> None:
    (model / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    assert "model.safetensors.index.json is damaged" in refusal(model)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "tokenizer.json", "extra", "circle"])
def test_links_out_of_an_artefact_are_refused(artefact: Path, tmp_path: Path, name: str) -> None:
    outside, link = tmp_path / "elsewhere", artefact / name
    if link.exists():
        link.rename(outside)
    else:
        outside.mkdir()
    link.symlink_to(link if name == "circle" else os.path.relpath(outside, artefact))
    assert f"{link} is a link that leads out of the artefact" in refusal(artefact.parent)


def test_links_within_an_artefact_and_to_it_are_fine(artefact: Path, tmp_path: Path) -> None:
    (artefact / "tokenizer.json").rename(artefact / "stored")
    (artefact / "tokenizer.json").symlink_to("stored")
    (tmp_path / "link").symlink_to(artefact)
    SFTModule(str(tmp_path / "link")).configure_model()


def test_a_tokenizer_file_elsewhere_is_refused(artefact: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    edit(artefact / "tokenizer_config.json", vocab_file=str(tmp_path / "vocab.json"))
    assert "names `vocab_file` outside its directory" in refusal(artefact.parent)


@pytest.mark.parametrize(
    "change",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"megatron_core": "antigravity"},
        {"corda_config": {"covariance_file": "/tmp/x.bin"}},
        {"init_lora_weights": "pissa"},
        {"loftq_config": {"loftq_bits": 4}},
        {"from_another_version": "/etc/passwd"},
    ],
)
def test_an_adapter_says_nothing_but_its_shape(artefact: Path, change: dict[str, Any]) -> None:
    edit(artefact / "adapter_config.json", **change)
    assert f"adapter_config.json sets `{next(iter(change))}`" in refusal(artefact.parent)


def test_the_base_model_of_an_adapter_is_that_of_its_stage_file(artefact: Path, tmp_path: Path) -> None:
    edit(artefact / "adapter_config.json", base_model_name_or_path=str(tmp_path / "evil"))
    SFTModule(str(artefact)).configure_model()


@pytest.mark.parametrize("kind", ["IA3", None, 5])
def test_other_adapters_are_refused(artefact: Path, kind: object) -> None:
    edit(artefact / "adapter_config.json", peft_type=kind)
    assert "is not of a LoRA adapter" in refusal(artefact.parent)


# -- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stage.json", "adapter_config.json"])
def test_a_settings_file_of_megabytes_is_not_read(artefact: Path, name: str) -> None:
    with (artefact / name).open("r+") as file:
        file.truncate(40 * 2**20)  # sparse
    assert f"{artefact / name} has 40 MiB" in refusal(artefact.parent)


@pytest.mark.parametrize("name", ["stage.json", "adapter_config.json"])
@pytest.mark.parametrize("content", ["[" * 10**5, "[]", "\ud800".encode("utf-8", "surrogatepass"), ""])
def test_a_damaged_settings_file_is_named(artefact: Path, name: str, content: str | bytes) -> None:
    (artefact / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert f"{artefact / name} is damaged" in refusal(artefact.parent)
