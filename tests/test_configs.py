"""Every YAML that ships is parsed against the real signatures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlhf_lightning.cli import main
from rlhf_lightning.commands import COMMANDS
from rlhf_lightning.models import tiny

ROOT = Path(__file__).parent.parent
ALL = sorted((ROOT / "configs").rglob("*.yaml"))
OVERLAYS = [p for p in ALL if p.parent.name in {"models", "trainer"}]
OF_COMMANDS = [p for p in ALL if p.stem in COMMANDS]
STAGES = [p for p in ALL if p not in OVERLAYS + OF_COMMANDS]


@pytest.mark.parametrize("path", STAGES, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_config_parses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].startswith("rlhf_lightning.")


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_overlay_parses(path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "configs/tiny/ppo.yaml", "--config", str(path), "--print_config"])
    assert stop.value.code == 0


@pytest.mark.parametrize("path", STAGES, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_data_files_of_a_config_ship_with_it(path: Path) -> None:
    data = yaml.safe_load(path.read_text())["data"]["init_args"]
    for key in ("train", "val", "demonstrations", "pretrain"):
        name = data.get(key)
        if isinstance(name, str) and name.startswith("configs/"):
            assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("path", OF_COMMANDS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_config_of_a_command_parses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([path.stem, "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(path.read_text()).keys() <= yaml.safe_load(capsys.readouterr().out).keys()


@pytest.mark.parametrize("path", OF_COMMANDS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_data_files_of_a_command_ship_with_it(path: Path) -> None:
    prompts = yaml.safe_load(path.read_text()).get("prompts", [])
    for name in [prompts] if isinstance(prompts, str) else prompts:
        assert (ROOT / name).is_file(), name


def test_own_configs_train_a_model_whose_pad_is_eos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the tokenizers of SmolLM2 on the Hub, the model that `configs/own` names."""
    model, data, common = tmp_path / "model", ROOT / "configs" / "tiny" / "data", ["--trainer.max_steps", "1"]
    tiny.write(model)
    for file in (model / "tokenizer.json", model / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("<|pad|>", "<|endoftext|>"))
    settings = model / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": "<|end|>"}))

    def fit(stage: str, *args: str) -> int:
        config, root = ROOT / "configs" / "own" / f"{stage}.yaml", tmp_path / stage
        limits = ["--data.init_args.max_prompt_tokens", "128", "--data.init_args.limit", "8"]
        where = ["--trainer.default_root_dir", str(root), "--trainer.accelerator", "cpu"]
        return main(["fit", "--config", str(config), *common, *limits, *where, *args])

    sft = ["--model.init_args.base_model", str(model), "--data.init_args.train", str(data / "demonstrations.jsonl")]
    assert fit("sft", *sft, "--model.init_args.pad_token", "null") == 1
    assert "uses EOS ('<|end|>') as PAD" in capsys.readouterr().err
    assert fit("sft", *sft) == 0
    rankings = ["--data.init_args.train", str(data / "rankings.jsonl"), "--data.init_args.demonstrations", "null"]
    assert fit("reward", *rankings, "--model.init_args.init_from", str(tmp_path / "sft")) == 0
    artefacts = [
        f"--model.init_args.{key}_from={tmp_path / run}" for key, run in (("policy", "sft"), ("reward", "reward"))
    ]
    prompts = ["--data.init_args.train", str(data / "prompts.jsonl"), "--data.init_args.batch_size", "4"]
    assert fit("ppo", *prompts, *artefacts, "--model.init_args.sampling.max_response_tokens", "8") == 0
