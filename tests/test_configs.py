"""Every YAML that ships is parsed against the real signatures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlhf_lightning.cli import main
from rlhf_lightning.commands import COMMANDS

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
