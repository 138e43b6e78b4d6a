"""Configuration files and keys that do not say what they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_inputs.refusal import Refusal

KEYS: list[tuple[str, str, list[str]]] = [
    ("sft", "trainers: {max_epochs: 1}", ["trainers"]),
    ("sft", "trainer: {max_epoch: 1}", ["trainer.max_epoch"]),
    ("sft", "model: {init_args: {learning_rate: 1}}", ["model.init_args.learning_rate", "no such option", ".help"]),
    ("sft", "model: {init_args: {optimizer: {learning: 1}}}", ["model.init_args.optimizer.learning"]),
    ("sft", "model: {init_args: {schedule: {shape: cosine}}}", ["model.init_args.schedule.shape"]),
    ("sft", "model: {init_args: {lora: {ranks: 2}}}", ["model.init_args.lora.ranks", "LoraSettings"]),
    ("ppo", "model: {init_args: {klcoef: 1}}", ["model.init_args.klcoef", "PPOModule"]),
    ("ppo", "model: {init_args: {sampling: {top_p: 0.9}}}", ["model.init_args.sampling.top_p"]),
    ("ppo", "model: {init_args: {base_model: x}}", ["model.init_args.base_model", "PPOModule has no such option"]),
    ("reward", "data: {init_args: {demos: x}}", ["data.init_args.demos", "RankingDataModule"]),
    ("ppo", "data: {init_args: {max_response_tokens: 8}}", ["data.init_args.max_response_tokens"]),
    ("sft", "model: {init_args: {optimizer: {lr: [1]}}}", ["optimizer.lr: expected float", "[1]"]),
    ("sft", "model: {init_args: {optimizer: fast}}", ["model.init_args.optimizer", "fast"]),
    ("sft", "model: {init_args: {optimizer: 3}}", ["model.init_args.optimizer is 3", "its options"]),
    ("ppo", "model: {init_args: {sampling: 1.0}}", ["model.init_args.sampling is 1.0", "its options"]),
    ("sft", "model: {init_args: {schedule: {name: linear}}}", ["schedule.name", "'cosine', 'constant'", "linear"]),
    ("sft", "model: {init_args: {lora: 4}}", ["model.init_args.lora: expected the options of LoraSettings", "4"]),
    ("sft", "model: {init_args: {lora: {base_bits: 3}}}", ["model.init_args.lora.base_bits", "one of 4, 8", "3"]),
    ("sft", "model: {init_args: {lora: {rank: 2.5}}}", ["model.init_args.lora.rank", "int", "2.5"]),
    ("sft", "model: {init_args: {trust_remote_code: perhaps}}", ["trust_remote_code", "bool", "perhaps"]),
    ("sft", "model: {init_args: {seed: one}}", ["model.init_args.seed", "int", "one"]),
    ("sft", "data: {init_args: {batch_size: 2.5}}", ["data.init_args.batch_size: expected int", "2.5"]),
    ("sft", "data: {init_args: {batch_size: true}}", ["data.init_args.batch_size: expected int", "True"]),
    ("sft", "data: {init_args: {train: 3}}", ["data.init_args.train: expected str or list", "Got value: 3"]),
    ("sft", "data: {init_args: {train: []}}", ["data.init_args.train", "is empty", "name at least one file"]),
    ("sft", "data: {init_args: {on_bad_row: ignore}}", ["on_bad_row", "'error', 'skip'", "ignore"]),
    ("sft", "data: {init_args: {on_long_prompt: cut}}", ["on_long_prompt", "'error', 'drop'", "cut"]),
    ("sft", "model: {init_args: {base_model: null}}", ["model.init_args.base_model is missing", "give a value"]),
    ("reward", "model: {init_args: {init_from: null}}", ["model.init_args.init_from is missing"]),
    ("sft", "data: {init_args: {train: null}}", ["data.init_args.train is missing"]),
    ("ppo", "model: {init_args: {memory: null}}", ["model.init_args.memory is None; give its options"]),
    ("ppo", "model: {init_args: {seed: 99999999999}}", ["model.init_args.seed is 99999999999"]),
    ("sft", "data: {init_args: {seed: -1}}", ["data.init_args.seed is -1"]),
    ("sft", "model: null", ["model is missing"]),
    ("sft", "data: null", ["data is missing"]),
    ("sft", "model: {class_path: NoSuchModule}", ["model", "NoSuchModule"]),
    ("sft", "model: {class_path: no.such.Module}", ["model", "no"]),
    ("sft", "model: {class_path: rlhf_lightning.sft.data.DemonstrationDataModule}", ["subclass of StageModule"]),
    ("sft", "data: {class_path: rlhf_lightning.sft.module.SFTModule}", ["subclass of StageDataModule"]),
]
FILES: list[tuple[str, bytes, list[str]]] = [
    ("empty", b"", ["is empty", "`trainer:`"]),
    ("comments only", b"# nothing yet\n", ["is empty"]),
    ("a list", b"- trainer\n- model\n", ["holds no keys"]),
    ("a word", b"trainer", ["holds no keys"]),
    ("open brace", b"trainer: {max_epochs: 1\n", ["broken YAML", "line 2"]),
    ("indentation", b"model:\n  - a\n b: 1\n", ["broken YAML", "line 3"]),
    ("tab", b"trainer:\n\tmax_epochs: 1\n", ["broken YAML", "line 2", "\\t"]),
    ("no colon", b"trainer\n  max_epochs: 1\n", ["broken YAML"]),
    ("Latin-1", b"trainer: {max_epochs: 1} # \xe9\n", ["not UTF-8", "byte 28"]),
    ("NUL", b"trainer: \0", ["broken YAML"]),
    ("key twice", b"trainer: {max_epochs: 1}\ntrainer: {max_steps: 2}\n", ["line 2: trainer is given twice"]),
    ("inner key twice", b"model:\n  init_args:\n    seed: 1\n    seed: 2\n", ["line 4: model.init_args.seed is given"]),
]


@pytest.fixture
def overlay(tmp_path: Path) -> Callable[[bytes], str]:
    """Writes a second configuration file, which goes over the tiny one."""

    def write(text: bytes) -> str:
        (tmp_path / "overlay.yaml").write_bytes(text)
        return str(tmp_path / "overlay.yaml")

    return write


@pytest.mark.parametrize(("stage", "text", "parts"), KEYS)
def test_key(refused: Refusal, overlay: Callable[[bytes], str], stage: str, text: str, parts: list[str]) -> None:
    refused(stage, "--config", overlay(text.encode()), parts=parts)


@pytest.mark.parametrize(("text", "parts"), [pytest.param(*c[1:], id=c[0]) for c in FILES])
def test_file(refused: Refusal, overlay: Callable[[bytes], str], text: bytes, parts: list[str]) -> None:
    name = overlay(text)
    refused("sft", "--config", name, parts=["--config", name, *parts])


def test_file_given_after_an_equals_sign(refused: Refusal, overlay: Callable[[bytes], str]) -> None:
    name = overlay(b"trainer: {")
    refused("sft", f"--config={name}", parts=["--config", name, "broken YAML"])


def test_file_that_is_a_directory(refused: Refusal, tmp_path: Path) -> None:
    refused("sft", "--config", str(tmp_path), parts=["config", "not a file", str(tmp_path)])


def test_file_that_is_not_there(refused: Refusal) -> None:
    refused("sft", "--config", "nowhere.yaml", parts=["nowhere.yaml"])


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["fit"], ["model", "missing"]),
        (["train"], ["train", "fit", "validate"]),
        (["fit", "--config"], ["--config", "expected one argument"]),
        (["fit", "--config", "configs/tiny/sft.yaml", "--batch_size", "3"], ["--batch_size"]),
        (["fit", "--config", "configs/tiny/sft.yaml", "again"], ["again"]),
        (["fit", "--config", "configs/tiny/sft.yaml", "--overwrite", "maybe"], ["overwrite", "bool", "maybe"]),
    ],
    ids=lambda v: " ".join(v[-2:]),
)
def test_command_line(refused: Refusal, args: list[str], parts: list[str]) -> None:
    refused("sft", args=args, parts=parts)


@pytest.mark.parametrize(
    ("stage", "data", "parts"),
    [
        ("sft", "rlhf_lightning.ppo.prompts.PromptDataModule", ["PromptDataModule", "the ppo stage", "SFTModule"]),
        ("ppo", "rlhf_lightning.sft.data.DemonstrationDataModule", ["DemonstrationDataModule", "sft", "PPOModule"]),
        ("ppo", "rlhf_lightning.reward.data.RankingDataModule", ["RankingDataModule", "reward", "PPOModule"]),
    ],
)
def test_data_module_of_another_stage(refused: Refusal, stage: str, data: str, parts: list[str]) -> None:
    refused(stage, "--data", data, parts=["data.class_path", "Choose a data module", *parts])


def test_starting_again_and_going_on_at_once(refused: Refusal) -> None:
    refused("sft", "--ckpt_path", "last", parts=["--overwrite", "--ckpt_path", "one of them"])
