"""Every YAML that ships is parsed against the real signatures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlhf_lightning.cli import main

ROOT = Path(__file__).parent.parent
STAGES = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name not in {"models", "trainer"})
OVERLAYS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name in {"models", "trainer"})


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
