"""What stages leave behind, opened by plain transformers and peft, and what happens when it does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlhf_lightning.artefacts import atomic_directory, open_source
from rlhf_lightning.cli import main
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.respond import Panel
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.sources import resolve
from rlhf_lightning.reward.data import RankingDataModule
from rlhf_lightning.reward.module import RewardModule
from rlhf_lightning.sft.module import SFTModule
from tests.conftest import TinyRuns

PROMPTS = ["What does a cat eat?", "Where does an owl sleep?"]
RESPONSES = [("Fish.", True), ("In a bed of leaves", False)]


def score_by_transformers(final: Path, ids: list[list[int]], pad_id: int) -> torch.Tensor:
    """Scores without any code of this project, as the README says."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    width = max(map(len, ids))
    input_ids = torch.tensor([x + [pad_id] * (width - len(x)) for x in ids])
    mask = torch.tensor([[1] * len(x) + [0] * (width - len(x)) for x in ids])
    if (final / "adapter_config.json").exists():
        base = json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"]
        classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=pad_id)
        classifier = PeftModel.from_pretrained(classifier, str(final))
    else:
        classifier = AutoModelForSequenceClassification.from_pretrained(str(final), num_labels=1)
    bias = load_file(final / "scalar_head.safetensors")["bias"]
    with torch.no_grad():
        return classifier.eval()(input_ids=input_ids, attention_mask=mask).logits[:, 0] + bias


@pytest.mark.parametrize("lora", ["adapter", "full"])
def test_reward_model_scores_the_same_in_plain_transformers(tiny: TinyRuns, lora: str) -> None:
    run = tiny.root / "reward"
    if lora == "full":
        run = tiny.run("reward", "reward_full", "--model.init_args.lora", "null", "--trainer.max_epochs", "1")
    panel = Panel(
        {"sft": open_source(str(tiny.root / "sft"), "x")}, "sft", open_source(str(run), "x"), dtype=torch.float32
    )
    ours = torch.tensor(panel.score_texts(PROMPTS, RESPONSES))
    template = panel.template
    ids = [
        template.encode_prompt(p) + template.encode_response(r)[: None if ended else -1]
        for p, (r, ended) in zip(PROMPTS, RESPONSES, strict=True)
    ]
    theirs = score_by_transformers(run / "final", ids, template.tokenizer.pad_token_id)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert ours[0] != ours[1]


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_policy_has_the_same_logits_in_plain_peft(tiny: TinyRuns, stage: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    final = tiny.root / stage / "final"
    base = json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"]
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(final)).eval()
    ours = SFTModule(str(final))
    ours.configure_model()
    ids = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.bool)
    with torch.no_grad(), ours.backbone.using("policy"):
        logits = ours.backbone.unembed(ours.backbone.hidden(ids, mask))
        assert torch.equal(logits, theirs(input_ids=ids, attention_mask=mask).logits)
        plain = load_causal_lm(resolve("embedded:tiny"))(input_ids=ids).logits
    assert not torch.allclose(logits, plain, atol=1e-3)


def test_full_fine_tuning_writes_a_transformers_model(tiny: TinyRuns) -> None:
    from transformers import AutoModelForCausalLM

    run = tiny.run("sft", "sft_full", "--model.init_args.lora", "null", "--trainer.max_epochs", "1")
    ours = SFTModule(str(run), lora=None)
    ours.configure_model()
    ids = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(str(run / "final")).eval()
    with torch.no_grad():
        assert torch.equal(ours.backbone.lm.eval()(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_demonstrations_score_zero_on_average(tiny: TinyRuns) -> None:
    reward = RewardModule(str(tiny.root / "reward"))
    reward.configure_model()
    panel = Panel(
        {"sft": open_source(str(tiny.root / "sft"), "x")},
        "sft",
        open_source(str(tiny.root / "reward"), "x"),
        dtype=torch.float32,
    )
    rows = [json.loads(line) for line in Path("configs/tiny/data/demonstrations.jsonl").read_text().splitlines()]
    scores = panel.score_texts([r["prompt"] for r in rows], [(r["response"], True) for r in rows])
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-4)
    assert reward.head.bias.abs() > 1e-3


def test_reward_model_starts_from_the_sft_adapter(tiny: TinyRuns) -> None:
    sft, reward = SFTModule(str(tiny.root / "sft")), RewardModule(str(tiny.root / "sft"))
    sft.configure_model()
    reward.configure_model()
    ours, theirs = reward.backbone.adapter_state("policy"), sft.backbone.adapter_state("policy")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert any(t.abs().sum() > 0 for k, t in theirs.items() if "lora_B" in k)


def test_the_same_seed_gives_the_same_weights(tiny: TinyRuns) -> None:
    from safetensors.torch import load_file

    again = tiny.run("sft", "sft_again")
    first, second = (load_file(r / "final" / "adapter_model.safetensors") for r in (tiny.root / "sft", again))
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_sft_resumed_after_an_epoch_equals_the_uninterrupted_run(tiny: TinyRuns, num_workers: str) -> None:
    from safetensors.torch import load_file

    # The schedule is a function of max_epochs, so the run is cut by an exception instead of a smaller limit.
    cut, workers = tiny.root / f"sft_cut{num_workers}", ("--data.init_args.num_workers", num_workers)
    args = tiny.args("sft", cut.name, *workers, "--trainer.callbacks+=tests.test_artefacts.StopAfterFirstEpoch")
    with pytest.raises(RuntimeError, match="cut"):
        main(args)
    assert not (cut / "final").exists()
    tiny.run("sft", cut.name, *workers, "--ckpt_path", "last")
    whole, resumed = (load_file(r / "final" / "adapter_model.safetensors") for r in (tiny.root / "sft", cut))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_a_run_killed_before_its_artefact_writes_it_when_started_again(tiny: TinyRuns, stage: str) -> None:
    from safetensors.torch import load_file

    copy = tiny.root / f"{stage}_killed"
    shutil.copytree(tiny.root / stage, copy)
    shutil.rmtree(copy / "final")
    # The checkpoint callback remembers its own directory.
    tiny.run(stage, copy.name, "--ckpt_path", str(copy / "lightning" / "last.ckpt"))
    for name in ("adapter_model.safetensors", "scalar_head.safetensors"):
        if (tiny.root / stage / "final" / name).exists():
            first, second = load_file(tiny.root / stage / "final" / name), load_file(copy / "final" / name)
            assert all(torch.equal(first[k], second[k]) for k in first), name


def test_an_adapter_for_another_base_is_refused(tiny: TinyRuns, tmp_path: Path) -> None:
    copy = tmp_path / "sft"
    shutil.copytree(tiny.root / "sft", copy)
    info = json.loads((copy / "final" / "stage.json").read_text())
    info["base_fingerprint"] = "0" * 64
    (copy / "final" / "stage.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"init_from: the adapter in .* was trained on another base model"):
        RewardModule(str(copy))


def test_an_sft_artefact_is_no_reward_model(tiny: TinyRuns) -> None:
    from rlhf_lightning.ppo.module import PPOModule

    with pytest.raises(UserError, match=r"reward_from: .* is a supervised \(SFT\) model, but a reward model is wanted"):
        PPOModule(str(tiny.root / "sft"), str(tiny.root / "sft"))
    with pytest.raises(UserError, match=r"policy_from: .* \(does not exist\)"):
        PPOModule("nowhere", str(tiny.root / "reward"))


@pytest.mark.parametrize("damage", ["truncated", "pickle", "json"])
def test_damaged_artefacts_are_named(tiny: TinyRuns, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "sft"
    shutil.copytree(tiny.root / "sft", copy)
    weights = copy / "final" / "adapter_model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "pickle":
        weights.unlink()
        torch.save({}, copy / "final" / "adapter_model.bin")
    else:
        (copy / "final" / "stage.json").write_text("{")
    with pytest.raises(UserError, match="init_from"):
        RewardModule(str(copy)).configure_model()


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "final"
    with atomic_directory(target) as d:
        (d / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_directory(target) as d:
        (d / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_stage_file_says_where_things_came_from(tiny: TinyRuns) -> None:
    info = json.loads((tiny.root / "reward" / "final" / "stage.json").read_text())
    assert info["stage"] == "reward"
    assert info["base_name"] == "embedded:tiny"
    assert info["seed"] == 1
    assert info["data"]["train"]["rows"] == 24
    assert len(info["data"]["train"]["fingerprint"]) == 64
    assert 0 <= info["metrics"]["val/accuracy"] <= 1


def test_without_demonstrations_the_best_responses_stand_in(jsonl: Callable[..., str]) -> None:
    data = RankingDataModule(jsonl([]))
    from rlhf_lightning.reward.data import RankedPrompt

    data.items["train"] = [RankedPrompt([5], [[6, 2], [7, 2]], [2, 1])]
    data.collate = lambda rows: rows  # type: ignore[assignment, method-assign]
    assert next(data.centering_batches())[0].responses == [[7, 2]]  # type: ignore[index]


import lightning as L  # noqa: E402


class StopAfterFirstEpoch(L.Callback):
    """Ends a run at the start of its second epoch, as a crash would."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("cut")
