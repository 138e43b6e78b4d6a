"""Artefacts that are missing, damaged, of another stage, or do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bad_inputs.damage import Damage, content, cut, fields, nothing, pickled, tensors, tokenizer_with, without
from tests.bad_inputs.refusal import Refusal
from tests.conftest import TinyRuns

INFO, ADAPTER, CONFIG = "stage.json", "adapter_model.safetensors", "adapter_config.json"
HEAD = "scalar_head.safetensors"
FULL = ("--model.init_args.lora", "null")
OTHER_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

DAMAGED_SFT: list[tuple[str, Damage, list[str]]] = [
    ("stage.json cut", cut(INFO, 40), ["stage.json is damaged"]),
    ("stage.json empty", content(INFO, b""), ["stage.json is damaged"]),
    ("stage.json a list", content(INFO, b"[]"), ["stage.json is damaged"]),
    ("stage.json not UTF-8", content(INFO, b"\xff\xfe"), ["stage.json is damaged"]),
    ("stage.json without fields", content(INFO, b"{}"), ["stage.json is damaged", "'stage'"]),
    ("field of another version", fields(INFO, colour="red"), ["of another version", "colour"]),
    ("unknown stage", fields(INFO, stage="dpo"), ["stage.json names an unknown stage 'dpo'"]),
    ("stage a list", fields(INFO, stage=["sft"]), ["stage.json is damaged", "'stage' has a wrong type"]),
    ("base_name a number", fields(INFO, base_name=3), ["'base_name' has a wrong type"]),
    ("lora a word", fields(INFO, lora="yes"), ["'lora' has a wrong type"]),
    ("prompt_format null", fields(INFO, prompt_format=None), ["'prompt_format' has a wrong type"]),
    ("base gone", fields(INFO, base_name="/gone/model"), ["base model", "'/gone/model'", "Restore it or train again"]),
    ("base gone, relative", fields(INFO, base_name="configs/gone"), ["base model", "'configs/gone'", "Restore it"]),
    ("base changed", fields(INFO, base_fingerprint="0" * 64), ["another base model", "found", "Restore that model"]),
    ("no tokenizer", without("*token*"), ["has no tokenizer", "Copy the model's own"]),
    ("no tokenizer.json", without("tokenizer.json"), ["cannot load a tokenizer", "restore"]),
    ("tokenizer.json cut", cut("tokenizer.json"), ["cannot load a tokenizer"]),
    ("no tokenizer_config.json", without("tokenizer_config.json"), ["has no EOS token", "tokenizer_config.json"]),
]
DAMAGED_ADAPTER: list[tuple[str, Damage, list[str]]] = [
    ("adapter cut", cut(ADAPTER), ["cannot read the adapter"]),
    ("adapter missing", without(ADAPTER), ["cannot read the adapter", ADAPTER]),
    (
        "adapter pickled",
        pickled(ADAPTER, "adapter_model.bin"),
        ["adapter_model.bin", f"no {ADAPTER} beside it", "save_pretrained"],
    ),
    ("adapter of other tensors", tensors(ADAPTER, w=(2, 2)), ["does not fit", "do not match"]),
    ("adapter_config.json missing", without(CONFIG), ["cannot read", CONFIG]),
    ("adapter_config.json cut", cut(CONFIG, 30), [CONFIG, "is damaged"]),
    ("another rank", fields(CONFIG, r=3), ["does not fit", "(4, 64)", "(3, 64)"]),
    ("other target modules", fields(CONFIG, target_modules=["nope"]), ["does not fit", "nope"]),
    ("not LoRA", fields(CONFIG, peft_type="IA3"), ["IA3", "is not of a LoRA adapter"]),
]


def damaged(tiny: TinyRuns, tmp_path: Path, stage: str, damage: Damage) -> str:
    """The name of a damaged copy of a tiny run."""
    shutil.copytree(tiny.root / stage / "final", tmp_path / stage / "final")
    damage(tmp_path / stage / "final")
    return str(tmp_path / stage)


@pytest.mark.parametrize(("damage", "parts"), [pytest.param(*c[1:], id=c[0]) for c in DAMAGED_SFT])
def test_damaged_sft_artefact(
    refused: Refusal, tiny: TinyRuns, tmp_path: Path, damage: Damage, parts: list[str]
) -> None:
    name = damaged(tiny, tmp_path, "sft", damage)
    refused("reward", "--model.init_args.init_from", name, parts=["model.init_args.init_from", name, *parts])


@pytest.mark.parametrize(("damage", "parts"), [pytest.param(*c[1:], id=c[0]) for c in DAMAGED_ADAPTER])
def test_damaged_adapter(refused: Refusal, tiny: TinyRuns, tmp_path: Path, damage: Damage, parts: list[str]) -> None:
    """Adapters are continued, merged before full fine-tuning, or stand beside others: each reads them differently."""
    name = damaged(tiny, tmp_path, "sft", damage)
    for stage, key, extra in (("reward", "init_from", ()), ("reward", "init_from", FULL), ("ppo", "policy_from", ())):
        expected = [part for part in parts if not (extra and part.startswith("("))]  # torch words its own shapes
        refused(stage, f"--model.init_args.{key}", name, *extra, parts=[f"model.init_args.{key}", name, *expected])


DAMAGED_REWARD: list[tuple[str, Damage, list[str]]] = [
    ("no head", without(HEAD), ["cannot read", HEAD]),
    ("head cut", cut(HEAD), ["cannot read", HEAD]),
    ("head of another size", tensors(HEAD, weight=(3,), bias=()), ["the scalar head in", "does not fit"]),
    ("head of other tensors", tensors(HEAD, w=(3,)), ["the scalar head in", "does not fit"]),
    ("adapter cut", cut(ADAPTER), ["cannot read the adapter"]),
    ("base changed", fields(INFO, base_fingerprint="0" * 64), ["another base model"]),
    ("another tokenizer", tokenizer_with("<new>"), ["tokenizer", "differs from the policy's", "same base model"]),
    ("another template", tokenizer_with(chat_template=OTHER_TEMPLATE), ["another chat template", "init_from"]),
]


def test_another_prompt_format_where_there_is_no_chat_template(
    refused: Refusal, tiny: TinyRuns, tmp_path: Path
) -> None:
    names = {}
    for stage, form in (("sft", "Q: {prompt}\nA:"), ("reward", "{prompt}\n\n")):
        names[stage] = damaged(tiny, tmp_path, stage, fields(INFO, prompt_format=form))
        without("chat_template*")(Path(names[stage]) / "final")
    extra = ["--model.init_args.policy_from", names["sft"], "--model.init_args.reward_from", names["reward"]]
    refused("ppo", *extra, parts=["model.init_args.reward_from", "prompt_format '{prompt}\\n\\n'", "init_from"])


@pytest.mark.parametrize(("damage", "parts"), [pytest.param(*c[1:], id=c[0]) for c in DAMAGED_REWARD])
def test_damaged_reward_artefact(
    refused: Refusal, tiny: TinyRuns, tmp_path: Path, damage: Damage, parts: list[str]
) -> None:
    name = damaged(tiny, tmp_path, "reward", damage)
    refused("ppo", "--model.init_args.reward_from", name, parts=["model.init_args.reward_from", name, *parts])


WRONG: list[tuple[str, str, str, list[str]]] = [
    ("ppo", "policy_from", "reward", ["is a reward model", "supervised (SFT) model or a PPO policy is wanted"]),
    ("ppo", "reward_from", "sft", ["is a supervised (SFT) model", "a reward model is wanted"]),
    ("ppo", "reward_from", "ppo", ["is a PPO policy", "a reward model is wanted"]),
    ("ppo", "policy_from", "nowhere", ["does not exist", "Train that stage first"]),
    ("ppo", "reward_from", "nowhere", ["does not exist", "Train that stage first"]),
    ("reward", "init_from", "nowhere", ["no config.json"]),
]


@pytest.mark.parametrize(("stage", "key", "given", "parts"), WRONG, ids=[f"{k} {g}" for _, k, g, _ in WRONG])
def test_artefact_of_another_stage(
    refused: Refusal, tiny: TinyRuns, stage: str, key: str, given: str, parts: list[str]
) -> None:
    name = str(tiny.root / given)
    refused(stage, f"--model.init_args.{key}", name, parts=[f"model.init_args.{key}", name, *parts])


@pytest.mark.parametrize(
    ("stage", "key", "part"),
    [
        ("ppo", "policy_from", "stage.json"),
        ("ppo", "reward_from", "stage.json"),
        ("reward", "init_from", "config.json"),
    ],
)
def test_empty_directory(refused: Refusal, tmp_path: Path, stage: str, key: str, part: str) -> None:
    refused(stage, f"--model.init_args.{key}", str(tmp_path), parts=[f"model.init_args.{key}", str(tmp_path), part])


def test_undamaged_copies_are_taken(tiny: TinyRuns, tmp_path: Path) -> None:
    """The refusals above are due to the damage, not to the copying."""
    from rlhf_lightning.ppo.module import PPOModule

    copies = [damaged(tiny, tmp_path, stage, nothing) for stage in ("sft", "reward")]
    PPOModule(*copies).configure_model()
