"""KL limits, the KL budget and the average of weights in runs of the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlhf_lightning.cli import main
from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.buffer import MicroBatch
from rlhf_lightning.ppo.ema import EMASettings
from rlhf_lightning.ppo.kl_settings import KLSettings
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.rollouts.settings import SamplingSettings
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import data, module, trainer


def with_validation() -> PromptDataModule:
    prompts = "configs/tiny/data/prompts.jsonl"
    return PromptDataModule(prompts, prompts, batch_size=8, max_prompt_tokens=128)


class Recording(PPOModule):
    """Notes weights, averages and metrics."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policies: list[dict[str, Tensor]] = []
        """After each optimizer step."""
        self.sampled: list[dict[str, Tensor]] = []
        """What each rollout and each validation batch was sampled from."""
        self.forwards = 0
        self.ended: list[dict[str, float]] = []

    def copies(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.policy_parameters().items()}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.policies.append(self.copies())

    def sample(self, batch: Any, purpose: str, *args: Any, **kwargs: Any) -> Any:
        self.sampled.append({"purpose": purpose, **self.copies()})  # type: ignore[dict-item]
        return super().sample(batch, purpose, *args, **kwargs)

    def policy_loss(self, batch: MicroBatch, hidden: Tensor | None = None) -> Any:
        self.forwards += 1
        return super().policy_loss(batch, hidden)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.ended.append({k: float(v) for k, v in self.trainer.callback_metrics.items()})


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return all(torch.equal(one[n], two[n]) for n in one.keys() & two.keys() if n != "purpose")


def artefact(root: Path) -> list[Tensor]:
    return list(load_file(root / "final" / "adapter_model.safetensors").values())


def matches(weights: list[Tensor], policy: dict[str, Tensor]) -> bool:
    """Names differ between a module and an artefact; the tensors come in any order."""
    return all(any(w.shape == p.shape and torch.equal(w, p) for p in policy.values()) for w in weights)


def test_a_minibatch_beyond_the_limit_and_all_after_it_make_no_step(tiny: TinyRuns, tmp_path: Path) -> None:
    """The first minibatch of an iteration has a KL of 0, the second one has not: with a tiny limit it is the last."""
    ppo: Any = module(tiny, Recording, kl=KLSettings(stop_update=1e-9), num_minibatches=4, ema=EMASettings())
    fit = trainer(tmp_path, max_epochs=2)
    fit.fit(ppo, datamodule=data())
    assert fit.global_step == 8
    assert ppo.forwards == 2 * 2  # one step, and the minibatch that was found beyond the limit
    for first in (0, 4):
        assert not same(ppo.policies[first], ppo.policies[first - 1])
        assert all(same(ppo.policies[first], ppo.policies[first + i]) for i in (1, 2, 3))
    assert [m["policy/skipped_minibatches"] for m in ppo.ended] == [3, 3]
    assert ppo.guard.skipped == 0
    state = fit.optimizers[0].state_dict()["state"]
    assert {int(s["step"]) for s in state.values()} == {2}
    # The average was updated twice, not eight times: from the start, towards either policy by 0.008.
    start, average = ppo.sampled[0], ppo.ema.state_dict()["average"]
    for name in average:
        expected = 0.992 * (0.992 * start[name] + 0.008 * ppo.policies[0][name]) + 0.008 * ppo.policies[-1][name]
        assert torch.allclose(average[name], expected, atol=1e-6)


def test_a_limit_that_is_never_reached_changes_nothing(tiny: TinyRuns, tmp_path: Path) -> None:
    runs = []
    for kl in (KLSettings(), KLSettings(stop_update=1e9, budget=1e9)):
        ppo: Any = module(tiny, Recording, kl=kl)
        trainer(tmp_path / str(len(runs)), max_epochs=2).fit(ppo, datamodule=data())
        runs.append(ppo.trainable())
    assert same(*runs)


@pytest.mark.parametrize("where", ["rollout", "validation"])
def test_a_run_ends_with_the_last_policy_within_its_budget(
    tiny: TinyRuns, tmp_path: Path, where: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """KLs of 0, 1, 2, ... and a budget of 1.5: the third measurement is beyond it."""
    raw = EMASettings(evaluate_with="raw", export="raw")
    ppo: Any = module(tiny, Recording, kl=KLSettings(budget=1.5, budget_on=where), ema=raw)
    measured: list[dict[str, Tensor]] = []
    known: list[dict[str, float]] = []
    check = ppo.check_budget

    def counted(at: str, kl: float, when: str, *metrics: Any) -> None:
        if at == where:
            measured.append(ppo.copies())
            known.append({n: float(v) for n, v in (metrics[0] if metrics else ppo.trainer.callback_metrics).items()})
        check(at, float(len(measured) - 1), when, *metrics)

    monkeypatch.setattr(ppo, "check_budget", counted)
    fit = trainer(tmp_path, max_epochs=9, num_sanity_val_steps=0)
    fit.fit(ppo, datamodule=with_validation())
    assert len(measured) == 3
    assert not same(measured[1], measured[2])
    assert fit.global_step == 2 * 3  # the third iteration is made to its end, without steps in it or after it
    assert same(ppo.copies(), measured[1])
    assert matches(artefact(tmp_path), measured[1])
    assert not matches(artefact(tmp_path), measured[2])
    assert ppo.trainer.state.status == "finished"
    out = capsys.readouterr().out
    assert out.count("The KL budget is spent: 2 nats per response in the") == 1
    assert out.count("Training ends") == 1
    # What stands beside the weights is theirs, too.
    metrics = json.loads((tmp_path / "final" / "stage.json").read_text())["metrics"]
    name = "rollout/score_mean" if where == "rollout" else "val/score_mean"
    assert metrics[name] == known[1][name] != known[2][name]


def test_the_average_goes_back_with_the_policy(tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo: Any = module(tiny, Recording, kl=KLSettings(budget=1.5), ema=EMASettings(0.5))
    averages: list[dict[str, Tensor]] = []
    check = ppo.check_budget

    def counted(at: str, kl: float, when: str, *metrics: Any) -> None:
        if at == "rollout":
            averages.append({n: t.clone() for n, t in ppo.ema.state_dict()["average"].items()})
        check(at, float(len(averages) - 1), when, *metrics)

    monkeypatch.setattr(ppo, "check_budget", counted)
    trainer(tmp_path, max_epochs=9).fit(ppo, datamodule=data())
    assert same(ppo.ema.state_dict()["average"], averages[1])
    assert matches(artefact(tmp_path), averages[1])


def test_a_budget_without_validation_is_refused(tiny: TinyRuns, tmp_path: Path) -> None:
    ppo = module(tiny, kl=KLSettings(budget=1.0, budget_on="validation"))
    with pytest.raises(UserError, match="budget_on is validation, and this run has none"):
        trainer(tmp_path).fit(ppo, datamodule=data())
    with pytest.raises(UserError, match="check_val_every_n_epoch at most max_epochs"):
        trainer(tmp_path, max_epochs=2, check_val_every_n_epoch=3).fit(ppo, datamodule=with_validation())


def test_a_budget_on_other_weights_than_the_exported_is_refused(tiny: TinyRuns, tmp_path: Path) -> None:
    kl = KLSettings(budget=1.0, budget_on="validation")
    ppo = module(tiny, kl=kl, ema=EMASettings(evaluate_with="raw"))
    with pytest.raises(UserError, match="measures the raw weights, and the artefact gets the ema ones"):
        trainer(tmp_path).fit(ppo, datamodule=with_validation())


def test_greedy_rollouts_are_refused_in_training_alone(tiny: TinyRuns, tmp_path: Path) -> None:
    ppo = module(tiny, sampling=SamplingSettings(8, temperature=0))
    with pytest.raises(UserError, match="sampling.temperature is 0: every prompt has one response"):
        trainer(tmp_path).fit(ppo, datamodule=data())
    fit = trainer(tmp_path)
    assert "val/score_mean" in fit.validate(ppo, datamodule=with_validation(), verbose=False)[0]


@pytest.mark.parametrize(("evaluate", "export"), [("ema", "ema"), ("raw", "ema"), ("ema", "raw")])
def test_rollouts_use_the_weights_and_validation_and_artefact_what_is_asked(
    tiny: TinyRuns, tmp_path: Path, evaluate: Any, export: Any
) -> None:
    ema = EMASettings(0.9, evaluate_with=evaluate, export=export)
    ppo: Any = module(tiny, Recording, ema=ema)
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(ppo, datamodule=with_validation())
    average, policy = ppo.ema.state_dict()["average"], ppo.policies[-1]
    assert not same(average, policy)
    assert same(ppo.copies(), policy)
    purposes = [s["purpose"] for s in ppo.sampled]
    second = len(purposes) - 1 - purposes[::-1].index("rollout")
    assert same(ppo.sampled[second], ppo.policies[1])
    assert same(ppo.sampled[-1], average if evaluate == "ema" else policy)
    assert matches(artefact(tmp_path), average if export == "ema" else policy)


def test_an_average_changes_nothing_of_training(tiny: TinyRuns, tmp_path: Path) -> None:
    runs = []
    for ema in (None, EMASettings()):
        ppo: Any = module(tiny, ema=ema)
        fit = trainer(tmp_path / str(ema is None), max_epochs=2, num_sanity_val_steps=0)
        fit.fit(ppo, datamodule=with_validation())
        runs.append(ppo.trainable())
    assert same(*runs)


def test_only_the_policy_is_averaged(tiny: TinyRuns) -> None:
    for lora in ({}, {"lora": None}):
        ppo = module(tiny, **lora)
        ppo.configure_model()
        parts = ppo.roles.trainable_parts()
        own = {id(p) for p in ppo.policy_parameters().values()}
        assert own == {id(p) for p in parts["policy"]}
        assert not own & {id(p) for p in parts["value"]}
        assert own


def test_a_validation_of_a_checkpoint_uses_its_average(tiny: TinyRuns, tmp_path: Path) -> None:
    """`validate --ckpt_path` scores what the run's last validation scored."""
    args = tiny.args("ppo", "averaged", "--model.init_args.ema.decay", "0.5", "--trainer.max_epochs", "2")
    assert main(args) == 0
    run = tiny.root / "averaged"
    saved = torch.load(run / "lightning" / "last.ckpt", weights_only=True)
    kept = saved["rlhf_lightning"]["state"]["metrics"]["shared"]["val/score_mean"]
    ppo: Any = module(tiny, ema=EMASettings(0.5), seed=1, sampling=type(module(tiny).sampling)(12))
    fit = trainer(tmp_path)
    found = fit.validate(ppo, datamodule=with_validation(), ckpt_path=str(run / "lightning" / "last.ckpt"))[0]
    assert found["val/score_mean"] == pytest.approx(kept, abs=1e-5)
    raw: Any = module(tiny, seed=1, sampling=ppo.sampling)
    other = fit.validate(raw, datamodule=with_validation(), ckpt_path=str(run / "lightning" / "last.ckpt"))[0]
    assert other["val/score_mean"] != pytest.approx(kept, abs=1e-5)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_a_penalty_in_the_loss_holds_the_policy_back(tiny: TinyRuns, tmp_path: Path, estimator: Any) -> None:
    """Without it the policy goes further away from the reference."""
    found = []
    for coef in (0.0, 5.0):
        ppo: Any = module(tiny, Recording, kl=KLSettings(estimator, "loss", budget=1e9), kl_coef=coef, ppo_epochs=4)
        trainer(tmp_path / str(coef), max_epochs=6).fit(ppo, datamodule=data())
        start = ppo.sampled[0]
        found.append(sum(float((p - start[n]).norm() ** 2) for n, p in ppo.copies().items()))
    assert found[1] < 0.9 * found[0]


def test_a_second_fit_is_another_run(tiny: TinyRuns, tmp_path: Path) -> None:
    """It goes on from the weights, and from nothing else: a budget that ended the first run is whole again."""
    kl = KLSettings(budget=1e-9, target=1.0, horizon=10)
    ppo: Any = module(tiny, Recording, kl=kl, ema=EMASettings())
    trainer(tmp_path, max_epochs=2).fit(ppo, datamodule=data())
    steps, coefficient = len(ppo.policies), ppo.kl_coef
    assert ppo.kl.exceeded
    assert ppo.kl._next_coef != coefficient
    ppo.kl.settings = KLSettings(target=1.0, horizon=10)
    before = ppo.copies()
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(ppo, datamodule=data())
    assert not ppo.kl.exceeded
    assert ppo.kl.coef == coefficient
    assert len(ppo.policies) == steps + 2
    decay, start = ppo.ema.settings.decay, before
    for name, average in ppo.ema.state_dict()["average"].items():
        by_hand = start[name].float()
        for weights in ppo.policies[-2:]:
            by_hand = by_hand * decay + weights[name].float() * (1 - decay)
        assert torch.allclose(average, by_hand, atol=1e-6), name
