"""Stage artefacts: what a stage leaves in `final/` for the next one, and for plain peft and transformers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from rlhf_lightning import __version__
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.directory_checks import check_adapter, check_artefact, check_model, read_json
from rlhf_lightning.models.sources import fingerprint, resolve

STAGE_FILE = "stage.json"
HEAD_FILE = "scalar_head.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
STAGES = {"sft": "a supervised (SFT) model", "reward": "a reward model", "ppo": "a PPO policy"}


@dataclass(frozen=True)
class StageInfo:
    """The content of `stage.json`."""

    stage: str
    """Which stage wrote it: sft, reward or ppo."""
    base_model: str
    """What the adapter sits on, as transformers loads it; for full fine-tuning, its origin."""
    base_name: str
    """The same as the user wrote it."""
    base_fingerprint: str
    lora: bool
    """True: an adapter directory; False: a whole model."""
    prompt_format: str
    seed: int
    data: dict[str, Any] = field(default_factory=dict)
    """Files and fingerprints of what it was trained on."""
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the models it started from and was trained against, by configuration key."""


def versions() -> dict[str, str]:
    """Versions of the packages that determine a run's numbers."""
    # Our own from the code that runs: a checkout may be used without being installed.
    found = {p: version(p) for p in ("torch", "lightning", "transformers", "peft")}
    return found | {"rlhf-lightning": __version__}


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target` that takes its place when the block ends without an error.

    Raises:
        UserError: The place cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise UserError(f"Cannot write {target}: {error.strerror}. Set trainer.default_root_dir elsewhere.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        old = None
        if target.exists():
            old = target.with_name(f".{target.name}-old-{os.getpid()}")
            target.rename(old)
        temporary.rename(target)
        if old:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class Source:
    """Where a model starts from: a plain causal LM, or an artefact of ours."""

    model: str
    """Directory or Hub name of the weights of the causal LM (the base, under an adapter)."""
    name: str
    """As the user wrote it."""
    info: StageInfo | None
    """None for a plain causal LM."""
    adapter: Path | None
    """Directory of the LoRA adapter, if there is one."""
    tokenizer: str
    """Where its tokenizer is."""

    @property
    def is_reward_model(self) -> bool:
        return self.info is not None and self.info.stage == "reward"


def open_source(name: str, key: str, expect: tuple[str, ...] | None = None) -> Source:
    """Find out what `name` is, before anything heavy is loaded.

    Args:
        name: An artefact directory (or a run directory that holds `final/`), or a causal LM.
        key: Configuration key to name in errors.
        expect: Stages that will do; None also allows a plain causal LM.

    Raises:
        UserError: Nothing there, an artefact of another stage, or one whose base model has changed.
    """
    path = Path(name).expanduser()
    if (path / "final" / STAGE_FILE).is_file():
        path = path / "final"
    if not (path / STAGE_FILE).is_file():
        if expect is not None:
            wanted = " or ".join(STAGES[s] for s in expect)
            state = "has no stage.json" if path.exists() else "does not exist"
            raise UserError(f"{key}: {name!r} is not {wanted} of this project ({state}). Train that stage first.")
        model = resolve(name, key)
        return Source(model, name, None, None, model)
    info = read_info(path, key)
    if expect is not None and info.stage not in expect:
        wanted = " or ".join(STAGES[s] for s in expect)
        raise UserError(f"{key}: {name!r} is {STAGES[info.stage]}, but {wanted} is wanted here.")
    check_artefact(path, key)
    if not info.lora:
        check_model(path, key)
        return Source(str(path), str(path), info, None, str(path))
    check_adapter(path, ADAPTER_FILE, key)
    return Source(_check_base(info, name, key), info.base_name, info, path, str(path))


def source_fingerprint(source: Source) -> str:
    """A hash of the model a stage starts from: its base, and its adapter where it has one."""
    digest = hashlib.sha256(fingerprint(source.model).encode())
    if source.adapter is not None:
        for name in (ADAPTER_FILE, HEAD_FILE):
            if (source.adapter / name).is_file():
                digest.update((source.adapter / name).read_bytes())
    return digest.hexdigest()


def read_info(directory: Path, key: str) -> StageInfo:
    """Read `stage.json`.

    Raises:
        UserError: It is not what this project writes.
    """
    try:
        info = StageInfo(**read_json(directory / STAGE_FILE, key))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{key}: {directory / STAGE_FILE} is damaged or of another version: {error}") from error
    texts = ("stage", "base_model", "base_name", "base_fingerprint", "prompt_format")
    wrong = [name for name in texts if not isinstance(getattr(info, name), str)]
    if wrong or not isinstance(info.lora, bool):
        raise UserError(f"{key}: {directory / STAGE_FILE} is damaged: {(wrong or ['lora'])[0]!r} has a wrong type.")
    if info.stage not in STAGES:
        raise UserError(f"{key}: {directory / STAGE_FILE} names an unknown stage {info.stage!r}.")
    return info


def write_info(directory: Path, info: StageInfo) -> None:
    """Write `stage.json` into an artefact that is being made."""
    (directory / STAGE_FILE).write_text(json.dumps(asdict(info), indent=2, sort_keys=True) + "\n")


def _check_base(info: StageInfo, name: str, key: str) -> str:
    try:
        base = resolve(info.base_name, key)
        found = fingerprint(base)
    except UserError as error:
        reason = str(error).removeprefix(f"{key}: ")
        raise UserError(
            f"{key}: the base model of the adapter in {name!r} cannot be opened: {reason} Restore it or train again."
        ) from error
    if found != info.base_fingerprint:
        raise UserError(
            f"{key}: the adapter in {name!r} was trained on another base model than {info.base_name!r} is now "
            f"(fingerprint {info.base_fingerprint[:12]}, found {found[:12]}). Restore that model or train again."
        )
    return base


def load_adapter_tensors(source: Source, key: str) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """The PEFT configuration, LoRA tensors and other tensors (a reward model's head) of an adapter artefact.

    Raises:
        UserError: The files are missing or damaged; pickled weights are never read.
    """
    from rlhf_lightning.models.lora_config import read_lora_config

    assert source.adapter is not None
    config = read_lora_config(source.adapter, key)
    try:
        tensors = load_file(source.adapter / ADAPTER_FILE)
    except Exception as error:
        raise UserError(f"{key}: cannot read the adapter in {source.adapter}: {error}") from error
    lora = {k: v for k, v in tensors.items() if ".lora_" in k}
    return config, lora, {k: v for k, v in tensors.items() if k not in lora}


def load_head(source: Source, key: str) -> dict[str, Tensor]:
    """Weight [H] and bias [] of a reward artefact's scalar head, float32.

    Raises:
        UserError: The file is missing or damaged.
    """
    directory = source.adapter or Path(source.model)
    try:
        return load_file(directory / HEAD_FILE)
    except Exception as error:
        raise UserError(f"{key}: cannot read {directory / HEAD_FILE}: {error}") from error
