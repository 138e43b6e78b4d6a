"""Which weights of a run are its best: by hand, and against the checkpoints that Lightning's own callback keeps."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rlhf_lightning.artefacts import Source
from rlhf_lightning.cli import main
from rlhf_lightning.fitting.stage_checkpoint import StageCheckpoint
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.schedule import OptimizerSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.sft.selection import Selection, SelectionSettings, mean_and_error
from rlhf_lightning.text_reward_models import RewardError
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import trainer

DEMONSTRATIONS = "configs/tiny/data/demonstrations.jsonl"


def tracked(**settings: Any) -> tuple[Selection, nn.Parameter]:
    weight = nn.Parameter(torch.zeros(2))
    return Selection(SelectionSettings("x", **settings), lambda: {"weight": weight}), weight


def measure(selection: Selection, weight: nn.Parameter, values: list[float]) -> None:
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            weight.fill_(float(step))
        selection.measured({"val/rm_score": value, "val/loss": -value}, epoch=1, step=step)


@pytest.mark.parametrize("by", ["rm_score", "loss"])
@pytest.mark.parametrize(
    ("values", "best"),
    [([0.1, 0.3, 0.2], 2), ([0.3, 0.3], 1), ([float("nan"), -1.0, float("inf"), -2.0], 2), ([-3.0], 1)],
    ids=["largest", "first of equals", "finite", "only one"],
)
def test_the_best_validation(by: Any, values: list[float], best: int) -> None:
    """The loss is minus the score here, so both choose the same."""
    selection, weight = tracked(by=by)
    measure(selection, weight, values)
    assert selection.metrics()["best/step"] == best
    assert selection.metrics()["best/val/rm_score"] == values[best - 1]
    with selection.in_place():
        assert weight.tolist() == [best] * 2
    assert weight.tolist() == [len(values)] * 2, "training weights are put back"


def test_another_metric_may_decide_from_now_on() -> None:
    selection, _ = tracked(by="rm_score")
    selection.load_state_dict(
        {"best": {"val/loss": 0.5, "epoch": 1.0, "step": 1.0}, "weights": {"weight": torch.zeros(2)}}
    )
    selection.measured({"val/rm_score": -3.0, "val/loss": 0.7}, epoch=2, step=2)
    assert selection.metrics()["best/step"] == 2


def test_weights_come_back_after_an_error() -> None:
    selection, weight = tracked()
    measure(selection, weight, [2.0, 1.0])
    with pytest.raises(OSError, match="full"), selection.in_place():
        raise OSError("disk full")
    assert weight.tolist() == [2.0, 2.0]


def test_last_keeps_nothing_but_the_record() -> None:
    selection, weight = tracked(keep="last")
    measure(selection, weight, [2.0, 1.0])
    assert selection.metrics()["best/step"] == 1
    assert not selection.state_dict()["weights"]
    with selection.in_place():
        assert weight.tolist() == [2.0, 2.0]


def test_a_run_without_a_finite_score_keeps_its_last_weights() -> None:
    selection, weight = tracked()
    measure(selection, weight, [float("nan")])
    with selection.in_place():
        assert weight.tolist() == [1.0, 1.0]
    assert "No validation gave a finite val/rm_score" in selection.summary({})


def test_mean_and_standard_error() -> None:
    scores = [0.5, -1.25, 3.0, 0.125]
    mean, error = mean_and_error(torch.tensor(scores))
    assert mean == pytest.approx(statistics.fmean(scores), abs=1e-12)
    assert error == pytest.approx(statistics.stdev(scores) / 2, abs=1e-12)


def test_what_a_resumed_run_compares() -> None:
    """Everything but files, whose content is compared."""
    identity = SelectionSettings("somewhere", prompts="a.jsonl", num_prompts=7).identity()
    assert identity["num_prompts"] == 7
    assert identity.keys().isdisjoint({"reward_from", "prompts"})


class Run:
    """A finished SFT run that selects, and the checkpoints that Lightning's callback chose beside it."""

    def __init__(self, root: Path, reward: str, lora: bool = True, lr: float = 3e-2, **select: Any) -> None:
        # A learning rate at which both loss and score go up and down.
        by_loss = select.get("by") == "loss"
        monitor, mode = ("val/loss", "min") if by_loss else ("val/rm_score", "max")
        self.checkpoint = StageCheckpoint(str(root / "lightning"), "{step}", monitor=monitor, mode=mode)  # type: ignore[arg-type]
        self.module = Noting(
            "embedded:tiny",
            lora=LoraSettings(rank=4, alpha=8) if lora else None,
            optimizer=OptimizerSettings(lr=lr),
            select=SelectionSettings(reward, max_response_tokens=6, num_prompts=10, **select),
            seed=5,
        )
        self.data = DemonstrationDataModule(DEMONSTRATIONS, DEMONSTRATIONS, batch_size=8, max_prompt_tokens=128)
        self.trainer = trainer(
            root, max_epochs=3, callbacks=[self.checkpoint], enable_checkpointing=True, num_sanity_val_steps=2
        )
        self.trainer.fit(self.module, datamodule=self.data)
        self.info = json.loads((root / "final" / "stage.json").read_text())["metrics"]
        (self.file,) = (root / "final").glob("*model.safetensors")

    def best_checkpoint(self) -> dict[str, torch.Tensor]:
        loaded = torch.load(self.checkpoint.best_model_path, weights_only=True)
        state: dict[str, torch.Tensor] = loaded["state_dict"]
        return state


def sums(tensors: dict[str, torch.Tensor]) -> list[float]:
    """Of every tensor, whatever it is called; a checkpoint's and an artefact's names differ."""
    return sorted(float(t.double().sum()) for t in tensors.values())


class Noting(SFTModule):
    """Keeps what it logged at each validation."""

    def measure(self, loss: float) -> None:
        super().measure(loss)
        if not self.trainer.sanity_checking:
            self.__dict__.setdefault("seen", []).append(
                {k: float(v) for k, v in self.trainer.callback_metrics.items()} | {"val/loss": loss}
            )


@pytest.mark.parametrize(("lora", "by"), [(True, "rm_score"), (True, "loss"), (False, "rm_score")])
def test_final_holds_the_checkpoint_that_lightning_ranks_first(
    tiny: TinyRuns, tmp_path: Path, lora: bool, by: str
) -> None:
    run = Run(tmp_path, str(tiny.root / "reward"), lora, by=by)
    monitor = "val/rm_score" if by == "rm_score" else "val/loss"
    values = [m[monitor] for m in run.module.seen]  # type: ignore[operator, union-attr]
    best = max(values) if by == "rm_score" else min(values)
    assert run.info[f"best/{monitor}"] == pytest.approx(best, abs=1e-12)
    assert run.info["best/step"] == 3 * (values.index(best) + 1)
    assert run.checkpoint.best_model_path.endswith(f"step={int(run.info['best/step'])}.ckpt")
    written = load_file(run.file)
    expected = [t for n, t in run.best_checkpoint().items() if n != "backbone.lm.lm_head.weight"]
    assert sorted(float(t.double().sum()) for t in written.values()) == sorted(
        float(t.double().sum()) for t in expected
    )
    moved = [not torch.equal(p, run.best_checkpoint()[n]) for n, p in run.module.trainable().items()]
    assert any(moved) == (values.index(best) < len(values) - 1)


def test_the_chosen_epoch_is_not_always_the_last(tiny: TinyRuns, tmp_path: Path) -> None:
    """Otherwise the tests above would compare last weights with last weights."""
    run = Run(tmp_path, str(tiny.root / "reward"))
    scores = [m["val/rm_score"] for m in run.module.seen]  # type: ignore[operator, union-attr]
    assert max(scores) != scores[-1]


def test_the_same_weights_score_the_same_at_every_validation(tiny: TinyRuns, tmp_path: Path) -> None:
    """Prompts and random numbers are fixed, so curves differ by the weights alone; of equals the first is kept."""
    run = Run(tmp_path, str(tiny.root / "reward"), lr=0.0)
    scores = [m["val/rm_score"] for m in run.module.seen]  # type: ignore[operator, union-attr]
    assert len(scores) == 3
    assert len(set(scores)) == 1
    assert run.info["best/epoch"] == 1


def test_the_example_runs(tiny: TinyRuns) -> None:
    tiny.run("sft_select", None, "--model.init_args.select.reward_from", str(tiny.root / "reward"))
    info = json.loads((tiny.root / "sft_select" / "final" / "stage.json").read_text())
    assert info["metrics"]["best/step"] in (6, 12, 18, 24)
    assert {"val/rm_score", "val/rm_score_se"} <= info["metrics"].keys()


def test_bf16_and_a_checkpoint_validated_later(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    """`validate` scores the weights of a checkpoint as the run did."""
    reward = ("--model.init_args.select.reward_from", str(tiny.root / "reward"), "--trainer.precision", "bf16-mixed")
    root = tiny.run("sft_select", "sft_select_bf16", *reward, "--model.init_args.select.keep", "last")
    metrics = json.loads((root / "final" / "stage.json").read_text())["metrics"]
    args = tiny.args("sft_select", "validated", *reward, "--ckpt_path", str(root / "lightning" / "last.ckpt"))
    capsys.readouterr()
    assert main(["validate", *args[1:]]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " val/rm_score " in line]
    assert float(line.split()[-2]) == pytest.approx(metrics["val/rm_score"], rel=1e-6)


class Failing(SFTModule):
    """Its reward model fails once, in the middle of the second validation."""

    fails = True
    best = 0
    """Optimizer steps after which its scores are the highest."""

    def build_rm_score(self, source: Source) -> None:
        super().build_rm_score(source)
        score, calls = self.rm_score.reward_model.score, []  # type: ignore[union-attr]

        def failing(*args: Any) -> Any:
            calls.append(1)
            if self.fails and len(calls) == 4:
                raise RewardError("no")
            return [value + 10 * (self.global_step == self.best) for value in score(*args)]

        self.rm_score.reward_model.score = failing  # type: ignore[union-attr, method-assign]


@pytest.mark.parametrize("best", [3, 6])
def test_a_failing_reward_model_loses_no_validation(tiny: TinyRuns, tmp_path: Path, best: int) -> None:
    """The checkpoint that the failure leaves has yet to validate: the resumed run does, and ends as if nothing was."""
    select = SelectionSettings(str(tiny.root / "reward"), max_response_tokens=6, num_prompts=10, batch_size=5)

    def fit(name: str, fails: bool, resume: bool = False) -> tuple[Failing, dict[str, float]]:
        module = Failing("embedded:tiny", optimizer=OptimizerSettings(lr=3e-2), select=select, seed=5)
        module.fails, module.best = fails, best
        data = DemonstrationDataModule(DEMONSTRATIONS, DEMONSTRATIONS, batch_size=8, max_prompt_tokens=128)
        callbacks = [StageCheckpoint(every_n_epochs=100)]
        run = trainer(tmp_path / name, max_epochs=3, callbacks=callbacks, enable_checkpointing=True)
        if fails:
            with pytest.raises(RewardError):
                run.fit(module, datamodule=data)
            return module, {}
        run.fit(module, datamodule=data, ckpt_path="last" if resume else None)
        return module, json.loads((tmp_path / name / "final" / "stage.json").read_text())["metrics"]

    whole, expected = fit("whole", fails=False)
    fit("failed", fails=True)
    resumed, metrics = fit("failed", fails=False, resume=True)
    assert metrics == expected
    assert metrics["best/step"] == best
    assert all(torch.equal(p, whole.trainable()[n]) for n, p in resumed.trainable().items())
    assert resumed.selection.state_dict()["best"] == whole.selection.state_dict()["best"]  # type: ignore[union-attr]
