"""Code that comes with a model, templates and checkpoints: nothing runs unasked."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from rlhf_lightning.artefacts import load_adapter_tensors, open_source
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.loading import load_causal_lm, load_tokenizer
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.sft.module import SFTModule
from tests.security.traps import KEY, Trap, edit, refusal


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
    with pytest.raises(UserError, match="chat template"):
        PromptTemplate(load_tokenizer(str(artefact)))
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


def test_a_checkpoint_is_read_without_running_it(
    tmp_path: Path, proof: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from rlhf_lightning.cli import main

    torch.save({"state_dict": {}, "callbacks": Trap(proof)}, tmp_path / "evil.ckpt")
    args = ["fit", "--config", "configs/tiny/sft.yaml", "--trainer.default_root_dir", str(tmp_path / "run")]
    for verb in ("fit", "validate"):
        assert main([verb, *args[1:], "--ckpt_path", str(tmp_path / "evil.ckpt")]) == 1
        assert "holds pickled objects" in capsys.readouterr().err
    assert not proof.exists()
