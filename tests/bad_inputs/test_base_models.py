"""Base models and tokenizers that are missing, damaged, or of no use here."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from rlhf_lightning.models.sources import resolve
from tests.bad_inputs.damage import Damage, content, cut, fields, one_character_tokenizer, pickled, without
from tests.bad_inputs.refusal import Refusal
from tests.conftest import TinyRuns

KEY = "model.init_args.base_model"
WEIGHTS, CONFIG, TOKENS = "model.safetensors", "config.json", "tokenizer_config.json"

DIRECTORIES: list[tuple[str, Damage, list[str]]] = [
    ("no config.json", without(CONFIG), [KEY, "no config.json"]),
    ("config.json cut", cut(CONFIG, 30), [KEY, "config"]),
    ("config.json empty", content(CONFIG, b"{}"), [KEY, "model_type"]),
    ("unknown architecture", fields(CONFIG, model_type="nosuch"), [KEY, "nosuch"]),
    ("an image model", fields(CONFIG, model_type="vit"), [KEY, "vit"]),
    ("an encoder-decoder", fields(CONFIG, model_type="t5"), [KEY, "causal LM", "T5Config"]),
    ("vocab_size a word", fields(CONFIG, vocab_size="many"), [KEY, "vocab_size", "many"]),
    ("weights of another width", fields(CONFIG, hidden_size=32), [KEY, "shapes that config.json gives"]),
    ("weights lack a layer", fields(CONFIG, num_hidden_layers=3), [KEY, "lack 9 tensors", "model.layers.2"]),
    ("no weights", without(WEIGHTS), [KEY, "cannot load a causal LM", WEIGHTS, "restore"]),
    ("weights cut", cut(WEIGHTS, 1000), [KEY, "cannot load a causal LM", "restore"]),
    ("weights pickled", pickled(WEIGHTS, "pytorch_model.bin"), [KEY, "pytorch_model.bin", f"no {WEIGHTS} beside it"]),
    ("no tokenizer", without("*token*"), [KEY, "has no tokenizer", "Copy the model's own"]),
    ("tokenizer.json cut", cut("tokenizer.json"), [KEY, "cannot load a tokenizer"]),
    ("no PAD", fields(TOKENS, pad_token=None), [KEY, "no PAD token", "model.init_args.pad_token"]),
    ("PAD is EOS", fields(TOKENS, pad_token="<|end|>"), [KEY, "uses EOS ('<|end|>') as PAD", "init_args.pad_token"]),
    ("no EOS", fields(TOKENS, eos_token=None), [KEY, "no EOS token", "eos_token"]),
    ("a tokenizer too large", fields(CONFIG, vocab_size=2), [KEY, "token 2", "only 2 embeddings"]),
    (
        "prompts beyond its embeddings",
        fields(CONFIG, vocab_size=100),
        ["demonstrations.jsonl:1", "only 100 embeddings"],
    ),
    ("a short context", fields(CONFIG, max_position_embeddings=20), ["demonstrations.jsonl:1", "context length is 20"]),
]


def broken_model(tmp_path: Path, damage: Damage) -> str:
    """The name of a damaged copy of the tiny model."""
    model = tmp_path / "model"
    shutil.copytree(resolve("embedded:tiny"), model)
    damage(model)
    return str(model)


@pytest.mark.parametrize(("damage", "parts"), [pytest.param(*c[1:], id=c[0]) for c in DIRECTORIES])
def test_model_directory(refused: Refusal, tmp_path: Path, damage: Damage, parts: list[str]) -> None:
    refused("sft", f"--{KEY}", broken_model(tmp_path, damage), parts=parts)


def test_no_chat_template_and_a_bad_prompt_format(refused: Refusal, tmp_path: Path) -> None:
    name = broken_model(tmp_path, without("chat_template.jinja"))
    parts = ["model.init_args.prompt_format", "must contain '{prompt}'"]
    refused("sft", f"--{KEY}", name, "--model.init_args.prompt_format", "Q:", parts=parts)


def test_rows_of_which_the_tokenizer_makes_nothing(refused: Refusal, tmp_path: Path) -> None:
    args = (f"--{KEY}", broken_model(tmp_path, one_character_tokenizer), "--model.init_args.prompt_format", "{prompt}")
    refused("sft", *args, parts=["demonstrations.jsonl:1", "no tokens of the prompt", "delete the row"])


NAMES: list[tuple[str, list[str]]] = [
    ("embedded:large", ["unknown embedded model", "'tiny'"]),
    ("missing.gguf", ["no GGUF file", "missing.gguf"]),
    ("./nowhere", ["./nowhere", "no config.json"]),
    ("~/no/such/model", ["~/no/such/model", "no config.json"]),
    ("configs/tinny", ["no model at 'configs/tinny'", "looked in", "Check the path"]),
    ("models/model.safetensors", ["no model at 'models/model.safetensors'", "Check the path"]),
    ("a/b.txt", ["no model at 'a/b.txt'", "Check the path"]),
    ("weights.bin", ["no model at 'weights.bin'", "Check the path"]),
    ("configs/tiny/sft.yaml", ["configs/tiny/sft.yaml", "no config.json"]),
    ("a b", ["'a b'", "Check the name"]),
    ("no-organisation/no-model", ["no-organisation/no-model", "Check the name"]),
    ("", ["no config.json"]),
]


@pytest.mark.parametrize(("name", "parts"), NAMES, ids=[n or "empty" for n, _ in NAMES])
def test_name(refused: Refusal, name: str, parts: list[str]) -> None:
    refused("sft", f"--{KEY}", name, parts=[KEY, *parts])


def test_a_mistyped_path_does_not_ask_the_hub(refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking takes half a minute where there is no network."""

    def ask(*_: object, **__: object) -> None:
        raise AssertionError("asked for a tokenizer")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", ask)
    start = time.perf_counter()
    refused("sft", f"--{KEY}", "configs/tiny/sft2", parts=[KEY, "configs/tiny/sft2"])
    refused("sft", f"--{KEY}", "configs/sft2", parts=[KEY, "configs/sft2"])
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("modules", "parts"),
    [
        ("nothing", ["nothing", "not found", "q_proj"]),
        ("[q_proj2, k_proj2]", ["not found", "q_proj"]),
        ("[]", ["No `target_modules`", "q_proj"]),
        ("q_proj(", ["q_proj"]),
    ],
)
def test_target_modules(refused: Refusal, modules: str, parts: list[str]) -> None:
    refused("sft", "--model.init_args.lora.target_modules", modules, parts=["lora.target_modules", *parts])


@pytest.mark.parametrize(
    ("stage", "name", "value", "found"),
    [
        ("reward", "rank", "32", "has 4,"),
        ("ppo", "alpha", "7.5", "has 8"),
        ("ppo", "target_modules", "[q_proj]", "'v_proj'"),
    ],
)
def test_an_adapter_goes_on_as_it_is(refused: Refusal, stage: str, name: str, value: str, found: str) -> None:
    """A rank that is not the artefact's would have no effect, and stand in the run's config.yaml all the same."""
    key = f"model.init_args.lora.{name}"
    parts = [f"{key} is", "which this stage continues", found, "or train all weights"]
    refused(stage, f"--{key}", value, parts=parts)


def test_what_an_adapter_has_may_be_said_again(tiny: TinyRuns) -> None:
    layers = "[v_proj, q_proj, k_proj, o_proj, gate_proj, up_proj, down_proj]"
    lora = ("--model.init_args.lora.rank", "4", "--model.init_args.lora.target_modules", layers)
    tiny.run("reward", "said_again", *lora, "--trainer.max_epochs", "1")
