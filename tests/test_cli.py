"""The command line: every stage's verbs, finished and resumed runs, and messages that name the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.cli import main
from tests.conftest import TinyRuns

GOOD: dict[str, Any] = {
    "sft": {"prompt": "Name a fruit.", "response": "Corn."},
    "reward": {"prompt": "Name a fruit.", "responses": ["Pear.", "no", "zz"], "ranks": [1, 2, 2]},
    "ppo": {"prompt": "Name a fruit."},
}


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_every_stage_has_every_verb(tiny: TinyRuns, stage: str, verb: str) -> None:
    assert main([verb, *tiny.args(stage, f"{stage}_{verb}")[1:]]) == 0


@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        ("sft", {"text", "nll", "tokens"}),
        ("reward", {"prompt", "responses", "ranks", "scores"}),
        ("ppo", {"prompt", "response", "score", "kl", "length", "truncated"}),
    ],
)
def test_predictions_are_written_in_the_order_of_the_data(tiny: TinyRuns, stage: str, keys: set[str]) -> None:
    run = tiny.root / f"{stage}_predicted"
    shutil.copytree(tiny.root / stage, run)
    assert main(["predict", *tiny.args(stage, run.name, "--ckpt_path", "last")[1:]]) == 0
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    name = {"sft": "demonstrations", "reward": "rankings", "ppo": "prompts"}[stage]
    given = [json.loads(line) for line in Path(f"configs/tiny/data/{name}.jsonl").read_text().splitlines()]
    assert len(rows) == len(given)
    assert all(row.keys() == keys for row in rows)
    for row, source in zip(rows, given, strict=True):
        assert source["prompt"] in row["text" if stage == "sft" else "prompt"]
    metrics = json.loads((run / "final" / "stage.json").read_text())["metrics"]
    if stage == "sft":
        assert sum(r["nll"] for r in rows) / sum(r["tokens"] for r in rows) == pytest.approx(metrics["val/loss"], 1e-4)
    if stage == "reward":
        best = [r["ranks"][max(range(len(r["scores"])), key=r["scores"].__getitem__)] == min(r["ranks"]) for r in rows]
        assert sum(best) / len(best) > 0.5
        assert all(r["responses"] == s["responses"] for r, s in zip(rows, given, strict=True) if "responses" in s)


def test_resuming_a_finished_run_says_so(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tiny.root / "sft" / "final" / "stage.json").stat().st_mtime_ns
    assert main(tiny.args("sft", None, "--ckpt_path", "last")) == 0
    assert "already finished" in capsys.readouterr().out
    assert (tiny.root / "sft" / "final" / "stage.json").stat().st_mtime_ns == before


def test_a_finished_run_is_not_overwritten_unless_asked(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny.root / "sft", tiny.root / "sft_kept")
    file = tiny.root / "sft_kept" / "final" / "stage.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 77'))
    assert main(tiny.args("sft", "sft_kept")) == 1
    assert "--overwrite true" in capsys.readouterr().err
    assert json.loads(file.read_text())["seed"] == 77
    assert main(tiny.args("sft", "sft_kept", "--overwrite", "true")) == 0
    assert json.loads(file.read_text())["seed"] == 1


def test_an_unfinished_run_is_not_lost_without_a_word(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    """As a killed run leaves it: checkpoints and no artefact."""
    shutil.copytree(tiny.root / "sft", tiny.root / "sft_cut")
    shutil.rmtree(tiny.root / "sft_cut" / "final")
    checkpoints = sorted((tiny.root / "sft_cut" / "lightning").iterdir())
    assert main(tiny.args("sft", "sft_cut")) == 1
    assert "holds an unfinished run. Give `--ckpt_path last` to go on with it" in capsys.readouterr().err
    assert sorted((tiny.root / "sft_cut" / "lightning").iterdir()) == checkpoints
    assert main(tiny.args("sft", "sft_cut", "--overwrite", "true", "--trainer.max_epochs", "1")) == 0
    assert "kept as lightning-replaced until this run has finished" in capsys.readouterr().out


def test_the_resolved_configuration_is_saved_and_runs_again(tiny: TinyRuns) -> None:
    saved = tiny.root / "sft" / "config.yaml"
    text = saved.read_text()
    assert "beta2: 0.95" in text  # a default that the YAML did not give
    assert main(["fit", "--config", str(saved), "--trainer.default_root_dir", str(tiny.root / "from_saved")]) == 0


def test_an_explicit_checkpoint_does_not_override_what_was_typed(tiny: TinyRuns) -> None:
    checkpoint = tiny.root / "sft" / "lightning" / "last.ckpt"
    args = tiny.args("sft", "typed", "--ckpt_path", str(checkpoint), "--model.init_args.optimizer.lr", "0.123")
    assert main(args) == 1  # another run's
    assert main([*args, "--resume_with_changes", "true"]) == 0
    assert "lr: 0.123" in (tiny.root / "typed" / "config.yaml").read_text()


def test_packing_gives_the_loss_of_unpacked_rows(tiny: TinyRuns) -> None:
    """Validation loss of the same model; float32 sums in another order."""
    losses = []
    for packing in ("false", "true"):
        extra = ("--data.init_args.packing", packing, "--trainer.max_epochs", "1", "--data.init_args.batch_size", "24")
        run = tiny.run("sft", f"sft_packing_{packing}", *extra, "--model.init_args.optimizer.lr", "0.0")
        losses.append(json.loads((run / "final" / "stage.json").read_text())["metrics"]["val/loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


CONFIG_ERRORS = [
    (["--trainer.max_epoch_s", "3"], "max_epoch_s"),
    (["--model.init_args.learning_rate", "1"], "learning_rate"),
    (["--model.init_args.optimizer.learning", "1"], "learning"),
    (["--data.init_args.batch_size", "many"], "batch_size"),
    (["--trainer.max_epochs", "soon"], "max_epochs"),
    (["--data.init_args.on_bad_row", "ignore"], "on_bad_row"),
    (["--config", "nowhere.yaml"], "nowhere.yaml"),
    (["--model", "NoSuchModule"], "NoSuchModule"),
]


@pytest.mark.parametrize(("extra", "named"), CONFIG_ERRORS, ids=[n for _, n in CONFIG_ERRORS])
def test_configuration_errors_are_one_short_message(
    tiny: TinyRuns, capsys: pytest.CaptureFixture[str], extra: list[str], named: str
) -> None:
    assert main(tiny.args("sft", "bad", *extra)) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(err) == 1
    assert named in err[0]
    assert len(err[0]) < 400
    assert not (tiny.root / "bad" / "final").exists()


def test_an_unknown_key_in_a_file_is_named(tiny: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {klcoef: 1}}\n")
    assert main(tiny.args("ppo", "bad", "--config", str(overlay))) == 2
    assert "klcoef" in capsys.readouterr().err
    overlay.write_text("trainer: {max_epoch: 1}\n")
    assert main(tiny.args("ppo", "bad", "--config", str(overlay))) == 2
    assert "max_epoch" in capsys.readouterr().err


BAD_ROWS = [
    ("sft", "{broken", "line 2"),
    ("sft", {"prompt": "Name a fruit."}, "response"),
    ("sft", {"prompt": "Name a fruit.", "response": "  "}, "response"),
    ("reward", GOOD["reward"] | {"ranks": [1, 2]}, "ranks"),
    ("reward", {"prompt": "p", "responses": ["a"], "ranks": [1]}, "responses"),
    ("reward", GOOD["reward"] | {"ranks": [1, 1, 1]}, "tie"),
    ("ppo", {"question": "p"}, "prompt"),
    ("ppo", {"prompt": "long " * 100}, "max_prompt_tokens"),
]


@pytest.mark.parametrize(("stage", "row", "named"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_stops_the_run_before_training(
    tiny: TinyRuns,
    jsonl: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    stage: str,
    row: Any,
    named: str,
) -> None:
    path = jsonl([GOOD[stage], row])
    assert main(tiny.args(stage, "bad_rows", "--data.init_args.train", path)) == 1
    err = capsys.readouterr().err
    message = next(line for line in err.splitlines() if line.startswith("error: "))
    assert path in message
    assert "2" in message
    assert named in message
    assert not (tiny.root / "bad_rows" / "lightning").exists()


def test_validation_prompts_that_are_training_prompts_are_reported(
    tiny: TinyRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.run("sft", "leak", "--trainer.max_epochs", "1")
    assert "24 of its prompts are training prompts too" in capsys.readouterr().out


def test_long_prompts_are_dropped_with_a_count_where_asked(
    tiny: TinyRuns, jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl([*[{"prompt": f"Name fruit {i}."} for i in range(16)], {"prompt": "long " * 100}])
    extra = ("--data.init_args.train", path, "--data.init_args.on_long_prompt", "drop", "--trainer.max_epochs", "1")
    tiny.run("ppo", "dropped", *extra)
    assert "left out 1 rows with prompts over 128 tokens" in capsys.readouterr().out


def test_an_unwritable_run_directory_is_named(
    tiny: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    args = tiny.args("sft", None, "--trainer.default_root_dir", str(tmp_path / "file" / "run"))
    assert main(args) == 1
    assert "trainer.default_root_dir" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "named"), [("none", "has no PAD token"), ("eos", "uses EOS")])
def test_a_tokenizer_without_a_pad_of_its_own(
    tiny: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, named: str
) -> None:
    from transformers import AutoTokenizer

    from rlhf_lightning.models.sources import resolve

    model = tmp_path / "model"
    shutil.copytree(resolve("embedded:tiny"), model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = None if change == "none" else tokenizer.eos_token
    tokenizer.save_pretrained(model)
    args = tiny.args("sft", f"pad_{change}", "--model.init_args.base_model", str(model))
    assert main(args) == 1
    err = capsys.readouterr().err
    assert named in err
    assert "model.init_args.pad_token" in err
    assert main([*args, "--model.init_args.pad_token", "<|pad|>"]) == 0


@pytest.mark.parametrize("name", ["no/such/model", "./nowhere", "embedded:unknown", "missing.gguf"])
def test_a_base_model_that_is_not_there(tiny: TinyRuns, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(tiny.args("sft", "bad", "--model.init_args.base_model", name)) == 1
    assert "model.init_args.base_model" in capsys.readouterr().err
