"""A model and an artefact to tamper with."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

from rlhf_lightning.artefacts import open_source
from rlhf_lightning.models.sources import fingerprint, resolve
from rlhf_lightning.sft.module import SFTModule
from tests.security.traps import KEY, Trap


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
