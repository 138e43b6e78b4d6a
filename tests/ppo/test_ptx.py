"""PPO-ptx: which text belongs to a step, what its loss and gradient are, and what must not change them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_lightning.errors import UserError
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.building import ADAPTER
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule
from rlhf_lightning.ppo.ptx import PtxBatch, PtxSettings, check_ptx, ptx_batch, text_logprobs
from rlhf_lightning.pretraining_text import PretrainingText, TokenSequence
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.sft.module import SFTModule
from tests.conftest import TinyRuns
from tests.invariance.updates import REORDERED, SETTINGS, distance, train
from tests.ppo.test_ppo_run import trainer

TEXT = "configs/tiny/data/pretraining.jsonl"
PTX = PtxSettings(3.0, ratio=2, context_tokens=24)
SIZES = [3, 3, 2]
"""Responses of an iteration's steps."""


def stream(count: int = 1000) -> PretrainingText:
    return PretrainingText([TokenSequence([i] * 4) for i in range(count)], 0)


def steps(iteration: int, settings: PtxSettings = PTX, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Numbers of the sequences of each step."""
    batches = [ptx_batch(settings, stream(), SIZES, iteration, s, 10.0, rank, world_size) for s in range(3)]
    return [b.ids[:, 0].tolist() for b in batches]


def test_steps_take_one_sequence_after_another() -> None:
    taken = [ids for i in range(2) for step in steps(i) for ids in step]
    assert [len(step) for step in steps(0)] == [6, 6, 4]
    assert taken == [stream().number(p) for p in range(32)]


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("ratio", [2.0, 0.1])
def test_processes_share_a_steps_sequences(world_size: int, ratio: float) -> None:
    """With ratio 0.1 a step has one, and most processes none."""
    settings = replace(PTX, ratio=ratio)
    shares = [steps(1, settings, rank, world_size) for rank in range(world_size)]
    for step, whole in enumerate(steps(1, settings)):
        assert whole
        assert sorted(n for share in shares for n in share[step]) == sorted(whole)
        assert max(len(s[step]) for s in shares) - min(len(s[step]) for s in shares) <= 1
    targets = {ptx_batch(settings, stream(), SIZES, 1, 0, 10.0, r, world_size).num_targets for r in range(world_size)}
    assert targets == {len(steps(1, settings)[0]) * 3}


def test_weights() -> None:
    """By hand. A step of 4 responses and 20 tokens; sequences of 11 tokens, so 10 targets."""
    assert PtxSettings(27.8).weight(4, 20.0) == 27.8
    # Eq. 2: γ · 10 nats a text, beside 20 / 4 = 5 tokens a response by which the policy loss is divided.
    assert PtxSettings(27.8, context_tokens=11, reduction="sequence").weight(4, 20.0) == pytest.approx(27.8 * 2)


def test_the_reduction_over_sequences_is_eq_2() -> None:
    """Policy gradient and text summed over tokens and averaged over texts, up to a factor common to both."""
    settings = PtxSettings(3.0, context_tokens=4, reduction="sequence")
    text_nll, policy = torch.rand(6, 3, dtype=torch.float64), torch.rand(4, 5, dtype=torch.float64)
    eq_2 = policy.sum(1).mean() + 3.0 * text_nll.sum(1).mean()
    ours = policy.mean() + settings.weight(4, 20.0) * text_nll.mean()
    assert float(ours * 5) == pytest.approx(float(eq_2), rel=1e-12)


def test_parts_are_whole_sequences_of_at_most_so_many_tokens() -> None:
    batch = PtxBatch(torch.arange(35).view(5, 7), 30, 2.0)
    for limit, sizes in ((1, [1] * 5), (14, [2, 2, 1]), (100, [5])):
        parts = list(batch.parts(limit))
        assert [len(p.ids) for p in parts] == sizes
        assert torch.equal(torch.cat([p.ids for p in parts]), batch.ids)
        assert {(p.num_targets, p.weight) for p in parts} == {(30, 2.0)}
    assert not list(replace(batch, ids=batch.ids[:0]).parts(9))


def test_log_probabilities_are_those_of_transformers() -> None:
    """Of every token but the first, under an adapter that is not active outside."""
    sft = SFTModule("embedded:tiny")
    sft.configure_model()
    with torch.no_grad():
        for tensor in sft.backbone.adapter_state(ADAPTER).values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))
    ids = torch.arange(3, 24).view(3, 7)
    with torch.no_grad(), sft.backbone.using(ADAPTER):
        log_p = sft.backbone.lm(input_ids=ids).logits.log_softmax(-1)
    expected = log_p[:, :-1].gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    assert torch.allclose(text_logprobs(sft.backbone, ADAPTER, ids), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("coef", "has_text", "key"), [(1.0, False, "ptx.coef is 1,"), (0.0, True, "pretrain is given")]
)
def test_text_and_coefficient_go_together(coef: float, has_text: bool, key: str) -> None:
    with pytest.raises(UserError, match=key):
        check_ptx(PtxSettings(coef), has_text)
    check_ptx(PtxSettings(1.0 - coef), has_text)


class Watched(PPOModule):
    """Keeps gradients of the first step, the text it was given, and that text's gradient by plain transformers."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch.ptx is not None and not hasattr(self, "plain"):
            ids, backbone = batch.ptx.ids, self.roles.backbone("policy")
            names, parameters = zip(*self.trainable().items(), strict=True)
            with backbone.using("policy"):
                logits = backbone.lm(input_ids=ids).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            found = {n: g for n, g in zip(names, gradients, strict=True) if g is not None}
            self.plain = (float(loss), found)
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        if not hasattr(self, "first"):
            self.first = {n: p.grad.clone() for n, p in self.trainable().items() if p.grad is not None}


def module(tiny: TinyRuns, ptx: PtxSettings, cls: type[PPOModule] = PPOModule, **settings: Any) -> Any:
    sampling = SamplingSettings(max_response_tokens=10)
    settings = SETTINGS | {"sampling": sampling, "num_minibatches": 2, "kl_coef": 0.1} | settings
    return cls(str(tiny.root / "sft"), str(tiny.root / "reward"), ptx=ptx, **settings)


def data(ptx: PtxSettings) -> PromptDataModule:
    pretrain = TEXT if ptx.coef else None
    prompts = "configs/tiny/data/prompts.jsonl"
    return PromptDataModule(prompts, pretrain=pretrain, batch_size=16, max_prompt_tokens=128, seed=5)


@pytest.fixture(scope="module")
def steps_in_float64(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Any]:
    """One minibatch with and without ptx."""
    made = {}
    for coef in (0.0, 3.0):
        ptx = replace(PTX, coef=coef)
        ppo = module(tiny, ptx, Watched, num_minibatches=1)
        fit = trainer(tmp_path_factory.mktemp("step"), max_epochs=1, precision="64-true")
        fit.fit(ppo, datamodule=data(ptx))
        made[coef] = ppo, {k: float(v) for k, v in fit.callback_metrics.items()}
    return made


def test_a_steps_gradient_is_ppos_and_gamma_times_the_texts(steps_in_float64: dict[float, Any]) -> None:
    """Weights in float64, logits in float32; the text's gradient by transformers' own forward."""
    without, with_ptx = (steps_in_float64[c][0].first for c in (0.0, 3.0))
    _, plain = steps_in_float64[3.0][0].plain
    assert with_ptx.keys() == without.keys()
    assert plain
    for name, gradient in with_ptx.items():
        assert gradient.dtype == torch.float64
        expected = without[name] + 3.0 * plain[name] if name in plain else without[name]
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6), name
    assert all(".policy." in name for name in plain)


def test_metrics(steps_in_float64: dict[float, Any]) -> None:
    """The mean nats of a token, and the norms of both parts of the policy's gradient before clipping."""
    (plain_run, plain_metrics), (ppo, metrics) = steps_in_float64[0.0], steps_in_float64[3.0]
    loss, gradients = ppo.plain
    assert metrics["ptx/loss"] == pytest.approx(loss, rel=1e-6)
    norm = float(torch.cat([3.0 * g.flatten() for g in gradients.values()]).norm())
    assert metrics["ptx/grad_norm"] == pytest.approx(norm, rel=1e-6)
    policy = [g.flatten() for n, g in plain_run.first.items() if n in gradients]
    assert metrics["policy/grad_norm"] == pytest.approx(float(torch.cat(policy).norm()), rel=1e-6)
    assert 0 < metrics["time/ptx_s"] < metrics["time/update_s"]
    assert not {"ptx/loss", "ptx/grad_norm", "policy/grad_norm", "time/ptx_s"} & plain_metrics.keys()


def run(tiny: TinyRuns, root: Path, ptx: PtxSettings = PTX, settings: Any = None, **trainer: Any) -> Any:
    return train(root, module(tiny, ptx, **(settings or {})), data(ptx), **trainer)


VARIATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two micro-batches": ({}, {"accumulate_grad_batches": 2}),
    "eight micro-batches": ({}, {"accumulate_grad_batches": 8}),
    "one sequence a forward": ({"memory": MemorySettings(1)}, {}),
    "a few sequences a forward": ({"memory": MemorySettings(60)}, {}),
    "gradient checkpointing": ({"memory": MemorySettings(gradient_checkpointing=True)}, {}),
}


@pytest.fixture(scope="module")
def plain(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tiny, tmp_path_factory.mktemp("ptx"))


@pytest.mark.parametrize("name", VARIATIONS)
def test_an_iteration_does_not_depend_on(name: str, tiny: TinyRuns, plain: Any, tmp_path: Path) -> None:
    settings, trainer = VARIATIONS[name]
    assert distance(plain, run(tiny, tmp_path, settings=settings, **trainer)) <= REORDERED


@pytest.mark.parametrize("change", [{"coef": 0.0}, {"coef": 3.3}, {"ratio": 3}, {"reduction": "sequence"}])
def test_but_on_its_settings(tiny: TinyRuns, plain: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    assert distance(plain, run(tiny, tmp_path, replace(PTX, **change))) > 10 * REORDERED


def test_norms_are_those_of_the_whole_step(tiny: TinyRuns, tmp_path: Path) -> None:
    """Micro-batches change neither, though each has a part of the policy's gradient only."""
    found = []
    for parts in (1, 4):
        fit = trainer(tmp_path / str(parts), max_epochs=1, accumulate_grad_batches=parts)
        fit.fit(module(tiny, PTX), datamodule=data(PTX))
        found.append([float(fit.callback_metrics[k]) for k in ("policy/grad_norm", "ptx/grad_norm", "ptx/loss")])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_papers_coefficient_teaches_the_text(tiny: TinyRuns, tmp_path: Path) -> None:
    ends = []
    for epochs in (1, 6):
        ptx = PtxSettings(27.8, context_tokens=24)
        fit = trainer(tmp_path / str(epochs), max_epochs=epochs, gradient_clip_val=1.0)
        fit.fit(module(tiny, ptx), datamodule=data(ptx))
        ends.append(float(fit.callback_metrics["ptx/loss"]))
    assert ends[1] < ends[0] - 0.02


def test_full_fine_tuning(tiny: TinyRuns, tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(module(tiny, PTX, lora=None), datamodule=data(PTX))
    assert float(fit.callback_metrics["ptx/grad_norm"]) > 0


def test_a_failure_can_be_blamed_on_a_text(tiny: TinyRuns, tmp_path: Path) -> None:
    """Every text of a step is among the inputs that are looked at one by one."""
    seen: list[str] = []

    class Asked(PPOModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            rows = list(self.single_rows(batch))
            texts = [text for text, row in rows if row.ptx is not None]
            assert len(texts) == len(batch.ptx.ids) == 2 * len(batch.experience.rollout)
            whole = self.loss(batch).item()
            assert sum(self.loss(row).item() for _, row in rows) == pytest.approx(whole, abs=1e-3)
            seen.extend(texts)
            return super().training_step(batch, batch_idx)

    trainer(tmp_path, max_epochs=1).fit(module(tiny, PTX, Asked), datamodule=data(PTX))
    assert seen


def test_nothing_is_kept_of_a_steps_gradients(tiny: TinyRuns, tmp_path: Path) -> None:
    ppo = module(tiny, PTX)
    trainer(tmp_path, max_epochs=1).fit(ppo, datamodule=data(PTX))
    assert not ppo.ptx._gradients


def test_state_of_an_iteration(tiny: TinyRuns) -> None:
    ppo, other = module(tiny, PTX), module(tiny, PTX)
    ppo.ptx._nll, ppo.ptx._targets, ppo.ptx._norms["ptx/grad_norm"] = 12.0, 4.0, [1.0, 3.0]
    ppo.ptx.commit()
    other.ptx.load_state_dict(ppo.ptx.state_dict())
    assert "ptx" in ppo.run_state
    assert "ptx" not in module(tiny, PtxSettings()).run_state
    found = [made.ptx.finish(lambda x, reduce_op: x) for made in (ppo, other)]
    assert found[0] == found[1]
    assert found[0] == {"ptx/loss": 3.0, "ptx/grad_norm": 2.0, "time/ptx_s": 0.0}


def test_an_iteration_begins_anew(tiny: TinyRuns) -> None:
    ppo = module(tiny, PTX)
    ppo.ptx._nll, ppo.ptx._targets = 12.0, 4.0
    ppo.ptx.finish(lambda x, reduce_op: x)
    assert ppo.ptx.finish(lambda x, reduce_op: x) == {"time/ptx_s": 0.0}, "no text is not a loss of 0"
