"""Directories from somewhere else: nothing in them is executed, and nothing outside them is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.artefacts import load_adapter_tensors, open_source
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import load_causal_lm, load_tokenizer
from rlhf_lightning.models.sources import fingerprint, resolve
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.sft.module import SFTModule

KEY = "model.init_args.base_model"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """What a trap leaves behind when it goes off; the traps are checked to work."""
    trial = tmp_path / "trial"
    pickle.loads(pickle.dumps(Trap(trial)))
    assert trial.exists()
    return tmp_path / "proof"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A plain model directory."""
    return Path(shutil.copytree(resolve("embedded:tiny"), tmp_path / "model"))


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """An SFT adapter, as a stage leaves it, without the training."""
    from rlhf_lightning.artefacts import StageInfo, write_info
    from rlhf_lightning.models.building import ADAPTER, save_adapter

    module = SFTModule("embedded:tiny")
    module.configure_model()
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    base = resolve("embedded:tiny")
    save_adapter(final, module.backbone, ADAPTER, base)
    module.template.tokenizer.save_pretrained(final)
    write_info(final, StageInfo("sft", base, "embedded:tiny", fingerprint(base), True, "{prompt}", 0))
    assert open_source(str(final.parent), KEY).adapter == final
    return final


def refusal(name: Path) -> str:
    """The message with which a directory is refused, by the whole way from its name to the weights."""
    with pytest.raises(UserError) as caught:
        SFTModule(str(name)).configure_model()
    message = str(caught.value)
    assert message.startswith(f"{KEY}: ")
    return message


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


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


# -- code -------------------------------------------------------------------------------------------------


def add_code(model: Path, proof: Path, model_type: str) -> None:
    (model / "evil.py").write_text(
        f"import os\nos.mkdir({str(proof)!r})\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        f"class EvilConfig(LlamaConfig):\n    model_type = {model_type!r}\n"
        "class EvilModel(LlamaForCausalLM):\n    config_class = EvilConfig\n"
        "class EvilTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
    edit(model / "config.json", model_type=model_type, auto_map=code)
    edit(
        model / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", "evil.EvilTokenizer"]},
    )


def test_a_models_own_code_is_not_run_unasked(model: Path, proof: Path) -> None:
    add_code(model, proof, "evil")
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(UserError, match=r"base_model: .*set model.init_args.trust_remote_code to true"):
            load(str(model))
    assert "trust_remote_code" in refusal(model)
    assert not proof.exists()


def test_a_known_model_is_loaded_without_the_code_beside_it(model: Path, proof: Path) -> None:
    add_code(model, proof, "llama")
    assert type(load_causal_lm(str(model))).__module__.startswith("transformers.")
    assert not proof.exists()


def test_an_artefact_cannot_ask_for_its_code_to_be_run(artefact: Path, proof: Path) -> None:
    (artefact / "evil.py").write_text(f"import os\nos.mkdir({str(proof)!r})\n")
    edit(
        artefact / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        trust_remote_code=True,
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]},
    )
    assert "trust_remote_code" in refusal(artefact.parent)
    assert not proof.exists()


def test_code_is_run_when_the_user_says_so(model: Path, proof: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would pass with code that could not run anyway."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(proof.parent / "modules"))
    add_code(model, proof, "evil")
    SFTModule(str(model), trust_remote_code=True).configure_model()
    assert proof.exists()


ESCAPES = [
    "{{ messages.__class__.__mro__[-1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.mkdir('PROOF') }}",
    "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_chat_templates_are_confined(artefact: Path, proof: Path, template: str) -> None:
    (artefact / "chat_template.jinja").write_text(template.replace("PROOF", str(proof)))
    rendered = PromptTemplate(load_tokenizer(str(artefact)))
    with pytest.raises(UserError, match="chat template"):
        rendered.encode_prompt("hi")
    assert not proof.exists()


def test_a_damaged_head_is_not_unpickled(artefact: Path, proof: Path) -> None:
    edit(artefact / "stage.json", stage="reward")
    (artefact / "scalar_head.safetensors").write_bytes(pickle.dumps(Trap(proof)))
    with pytest.raises(UserError, match=r"cannot read .*scalar_head.safetensors"):
        RewardModule(str(artefact)).configure_model()
    assert not proof.exists()


def test_an_adapter_is_read_as_before(artefact: Path) -> None:
    config, tensors, rest = load_adapter_tensors(open_source(str(artefact), KEY), KEY)
    assert (config.r, config.lora_alpha, config.task_type) == (16, 32.0, "CAUSAL_LM")
    assert len(tensors) == 28
    assert rest == {}


def test_a_checkpoint_is_read_without_running_it(tmp_path: Path, proof: Path) -> None:
    import torch

    from rlhf_lightning.cli import main

    torch.save({"state_dict": {}, "callbacks": Trap(proof)}, tmp_path / "evil.ckpt")
    args = ["fit", "--config", "configs/tiny/sft.yaml", "--trainer.default_root_dir", str(tmp_path / "run")]
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        main([*args, "--ckpt_path", str(tmp_path / "evil.ckpt")])
    assert not proof.exists()
