"""A checkpoint of another run is refused with what differs, or taken where the user says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.cli import main
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from tests.conftest import ROOT, TinyRuns
from tests.ppo.test_ppo_run import trainer

PROMPTS = ROOT / "configs" / "tiny" / "data" / "prompts.jsonl"


@pytest.fixture(scope="module")
def halfway(tiny: TinyRuns) -> Path:
    """A PPO run without its last iteration."""
    return tiny.run("ppo", "halfway", "--trainer.max_epochs", "2") / "lightning" / "last.ckpt"


CHANGES = [
    (("--model.init_args.optimizer.lr", "0.002"), "model.init_args.optimizer.lr: 0.001 -> 0.002"),
    (("--model.init_args.kl_coef", "0.5"), "model.init_args.kl_coef: 0.02 -> 0.5"),
    (("--model.init_args.schedule.warmup", "3"), "model.init_args.schedule.warmup: 4.0 -> 3.0"),
    (("--model.init_args.sampling.temperature", "0.7"), "model.init_args.sampling.temperature: 1.0 -> 0.7"),
    (("--model.init_args.num_minibatches", "2"), "model.init_args.num_minibatches: 4 -> 2"),
    (("--seed_everything", "5"), "model.init_args.seed: 1 -> 5"),
    (("--data.init_args.batch_size", "8"), "data.init_args.batch_size: 16 -> 8"),
    (("--data.init_args.limit", "20"), "data rows.train: "),
    (("--trainer.precision", "bf16-mixed"), "trainer.precision: 32-true -> bf16-mixed"),
    (("--trainer.accumulate_grad_batches", "2"), "trainer.accumulate_grad_batches: 1 -> 2"),
    (("--trainer.gradient_clip_val", "0.5"), "trainer.gradient_clip_val: 1.0 -> 0.5"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=[c[0].split(".")[-1] for c, _ in CHANGES])
def test_a_changed_run_is_refused(
    tiny: TinyRuns, halfway: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, ...], named: str
) -> None:
    args = tiny.args("ppo", "another_run", "--ckpt_path", str(halfway), *change)
    assert main(args) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert named in error[0]
    assert "--resume_with_changes true" in error[0]
    assert not (tiny.root / "another_run" / "lightning").exists()


def test_a_change_can_be_allowed(tiny: TinyRuns, halfway: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = tiny.args("ppo", "allowed", "--ckpt_path", str(halfway), "--model.init_args.kl_coef", "0.5")
    assert main([*args, "--resume_with_changes", "true"]) == 0
    assert "kl_coef: 0.02 -> 0.5" in capsys.readouterr().out
    info = json.loads((tiny.root / "allowed" / "final" / "stage.json").read_text())
    assert info["metrics"]["kl_coef"] == 0.5


def test_a_changed_optimizer_is_used(tiny: TinyRuns, halfway: Path) -> None:
    """Checkpoints have learning rates of their own, for each group, and the schedule's."""
    rates = ("--model.init_args.optimizer.lr", "0.5", "--model.init_args.value_lr", "0.25")
    args = tiny.args("ppo", "faster", "--ckpt_path", str(halfway), *rates, "--resume_with_changes", "true")
    more = ("--model.init_args.optimizer.beta1", "0.5", "--model.init_args.optimizer.weight_decay", "0.125")
    assert main([*args, *more]) == 0
    info = json.loads((tiny.root / "faster" / "final" / "stage.json").read_text())
    assert (info["metrics"]["lr/policy"], info["metrics"]["lr/value"]) == (0.5, 0.25)
    saved = torch.load(tiny.root / "faster" / "lightning" / "last.ckpt", weights_only=True)
    for group, rate in zip(saved["optimizer_states"][0]["param_groups"], (0.5, 0.25), strict=True):
        assert (group["initial_lr"], group["betas"], group["weight_decay"]) == (rate, (0.5, 0.95), 0.125)


def test_an_optimizer_of_a_subclass_is_its_own_affair(tmp_path: Path) -> None:
    data = DemonstrationDataModule("configs/tiny/data/demonstrations.jsonl", batch_size=8, max_prompt_tokens=128)

    class Plain(SFTModule):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.trainable().values(), lr=0.1)

    for epochs in (1, 2):
        module = Plain("embedded:tiny", seed=1)
        module.resume_with_changes = True
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(module, datamodule=data, ckpt_path=tmp_path / "one.ckpt" if epochs == 2 else None)
        run.save_checkpoint(tmp_path / "one.ckpt")
    assert run.current_epoch == 2


def test_other_data_are_refused_and_moved_data_are_not(tiny: TinyRuns, halfway: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.jsonl"
    shutil.copy(PROMPTS, moved)
    train = "--data.init_args.train"
    assert main(tiny.args("ppo", "moved", "--ckpt_path", str(halfway), train, str(moved))) == 0
    rows = PROMPTS.read_text().splitlines()
    moved.write_text("\n".join([*rows[1:], rows[0]]) + "\n")
    assert main(tiny.args("ppo", "changed_rows", "--ckpt_path", str(halfway), train, str(moved))) == 1


def test_another_starting_model_is_refused(tiny: TinyRuns, halfway: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny.run("sft", "other_sft", "--trainer.max_epochs", "1")
    args = tiny.args("ppo", "other_policy", "--ckpt_path", str(halfway), "--model.init_args.policy_from", str(other))
    assert main(args) == 1
    assert "model.init_args files.model.init_args.policy_from" in capsys.readouterr().err


def test_a_run_with_a_constant_rate_may_be_made_longer(tiny: TinyRuns, halfway: Path) -> None:
    assert main(tiny.args("ppo", "longer", "--ckpt_path", str(halfway), "--trainer.max_epochs", "3")) == 0
    info = json.loads((tiny.root / "longer" / "final" / "stage.json").read_text())
    whole = json.loads((tiny.root / "ppo" / "final" / "stage.json").read_text())
    assert info["metrics"]["rollout/kl"] == whole["metrics"]["rollout/kl"]


def test_a_run_with_a_cosine_may_not(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny.root / "sft" / "lightning" / "epoch=0-step=6.ckpt"
    assert main(tiny.args("sft", "stretched", "--ckpt_path", str(checkpoint), "--trainer.max_epochs", "5")) == 1
    assert "trainer.max_epochs: 2 -> 5" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_a_checkpoint_of_another_stage_is_refused(
    tiny: TinyRuns, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    checkpoint = tiny.root / "sft" / "lightning" / "last.ckpt"
    assert main(tiny.args(stage, "foreign_stage", "--ckpt_path", str(checkpoint))) == 1
    assert f"is of stage sft, not {stage}" in capsys.readouterr().err


def edited(source: Path, target: Path, edit: Callable[[dict[str, object]], object]) -> Path:
    content = torch.load(source, weights_only=True)
    edit(content)
    torch.save(content, target)
    return target


EDITS: list[tuple[str, Callable[[dict[str, object]], object], str]] = [
    ("not ours", lambda c: c.pop("rlhf_lightning"), "was not written by"),
    ("a tensor less", lambda c: c["state_dict"].popitem(), "1 trained tensors are on one side only"),  # type: ignore[attr-defined]
    ("unknown state", lambda c: c["rlhf_lightning"]["state"].update(x={"shared": {}}), "unknown state 'x'"),  # type: ignore[index]
    ("missing state", lambda c: c["rlhf_lightning"]["state"].pop("guard"), "has no state 'guard'"),  # type: ignore[index]
]


@pytest.mark.parametrize(("name", "edit", "named"), EDITS, ids=[n for n, _, _ in EDITS])
def test_an_edited_checkpoint_is_refused(
    tiny: TinyRuns,
    halfway: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    edit: Callable[[dict[str, object]], object],
    named: str,
) -> None:
    file = edited(halfway, tmp_path / "edited.ckpt", edit)
    assert main(tiny.args("ppo", "edited", "--ckpt_path", str(file))) == 1
    assert named in capsys.readouterr().err
