"""Responses: what they depend on, what is kept, what is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.evaluated_model import EvaluatedModel
from rlhf_lightning.evaluation.generations import Generation, GenerationFile
from rlhf_lightning.evaluation.sections import read_result, read_results
from rlhf_lightning.evaluation.settings import DecodingSettings, EvaluateSettings
from tests.conftest import TinyRuns
from tests.evaluation.conftest import Evaluations

PROMPTS = "configs/tiny/data/prompts.jsonl"


def models(tiny: TinyRuns) -> dict[str, str]:
    return {"base": "embedded:tiny", "sft": str(tiny.root / "sft"), "ppo": str(tiny.root / "ppo")}


@pytest.fixture
def finished(evaluations: Evaluations, tiny: TinyRuns) -> dict[str, Any]:
    """Settings of an evaluation of the tiny models that has been run."""
    settings = {
        "models": models(tiny),
        "prompts": PROMPTS,
        "reward": str(tiny.root / "reward"),
        "samples_per_prompt": 2,
        "limit": 10,
        "save_every": 7,
    }
    evaluations.run(**settings)
    return settings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of responses that models are asked for, call by call."""
    sizes: list[int] = []
    generate = EvaluatedModel.generate

    def counting(self: EvaluatedModel, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        out = generate(self, prompts, *args, **kwargs)
        sizes.append(len(prompts))
        return out

    monkeypatch.setattr(EvaluatedModel, "generate", counting)
    return sizes


def rows(out: Path, model: str) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (out / "generations" / f"{model}.jsonl").read_text().splitlines()
    found = {(row["id"], row["sample"]): row for row in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def test_every_model_answers_every_prompt_and_is_labelled(
    evaluations: Evaluations, finished: dict[str, Any], tiny: TinyRuns
) -> None:
    for name in finished["models"]:
        found = rows(evaluations.out, name)
        assert len(found) == 20
        for row in found.values():
            assert row["tokens"] == len(row["response_ids"])
            assert row["scores"].keys() == {"reward"}
            assert row["ended"] == (row["response_ids"][-1] == 2)
            assert (row["kl"] == 0) == (name == "sft")
    about = json.loads((evaluations.out / "evaluation.json").read_text())
    against = {name: model["trained_against"]["reward"] for name, model in about["models"].items()}
    assert against == {"base": False, "sft": False, "ppo": True}
    assert about["prompts"]["rows"] == 10
    result = read_result(evaluations.out, "preference")
    assert result
    assert result["judges"]["reward"]["trained_against"] == against


def test_responses_depend_on_seed_prompt_and_sample_alone(
    evaluations: Evaluations, finished: dict[str, Any], tmp_path: Path
) -> None:
    before = {name: rows(evaluations.out, name) for name in finished["models"]}
    seeds = {place: {before[name][place]["seed"] for name in before} for place in before["sft"]}
    assert all(len(s) == 1 for s in seeds.values())
    assert len(set.union(*seeds.values())) == 20
    turned = tmp_path / "turned.jsonl"
    lines = Path(PROMPTS).read_text().splitlines()[:10]
    turned.write_text("\n".join(reversed(lines[3:])) + "\n")
    other = finished | {
        "out": str(tmp_path / "other"),
        "prompts": str(turned),
        "sampling": {"max_response_tokens": 6, "batch_size": 3},
        "save_every": 100,
    }
    evaluations.run(**other)
    for name in before:
        after = rows(tmp_path / "other", name)
        assert len(after) == 14
        for place, row in after.items():
            assert row["response_ids"] == before[name][place]["response_ids"]
            assert row["kl"] == pytest.approx(before[name][place]["kl"], abs=1e-4)


def test_equal_prompts_get_different_responses(evaluations: Evaluations, jsonl: Callable[..., str]) -> None:
    file = jsonl([{"prompt": "Hello?"}, {"prompt": "Hello?"}])
    evaluations.run(models={"base": "embedded:tiny"}, prompts=file)
    found = rows(evaluations.out, "base")
    assert found.keys() == {("row-0", 0), ("row-1", 0)}
    assert found["row-0", 0]["response_ids"] != found["row-1", 0]["response_ids"]


def test_kl_and_entropy_are_those_of_transformers(
    evaluations: Evaluations, finished: dict[str, Any], tiny: TinyRuns
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.root / "ppo" / "final")

    def distributions(stage: str, row: dict[str, Any]) -> torch.Tensor:
        final = tiny.root / stage / "final"
        base = json.loads((final / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), final)
        chat = [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        before = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([before + row["response_ids"]])
        with torch.no_grad():
            return model(input_ids=ids).logits[0, len(before) - 1 : -1].log_softmax(-1)

    row = next(iter(rows(evaluations.out, "ppo").values()))
    ours, theirs = distributions("ppo", row), distributions("sft", row)
    tokens = torch.tensor(row["response_ids"]).unsqueeze(1)
    assert row["logprob"] == pytest.approx(float(ours.gather(1, tokens).sum()), abs=1e-3)
    assert row["kl"] == pytest.approx(float((ours - theirs).gather(1, tokens).sum()), abs=1e-3)
    assert row["entropy"] == pytest.approx(float(-(ours.exp() * ours).sum(1).mean()), abs=1e-4)


def test_cut_off_twice_and_nothing_is_generated_again(
    evaluations: Evaluations, finished: dict[str, Any], asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: rows(evaluations.out, name) for name in finished["models"]}
    shutil.rmtree(evaluations.out)
    append, written = GenerationFile.append, 0
    for stop_after in (2, 3, None):
        done = 0

        def interrupted(file: GenerationFile, part: Any, stop: int | None = stop_after) -> None:
            nonlocal done, written
            if done == stop:  # in the middle of a line, as a kill may be
                with file.path.open("a") as f:
                    f.write('{"id": "p0", "sam')
                raise KeyboardInterrupt
            append(file, part)
            done += 1
            written += len(part)

        monkeypatch.setattr(GenerationFile, "append", interrupted)
        if stop_after is not None:
            evaluations.run(expect=130, **finished)
        else:
            evaluations.run(**finished)
    assert written == 60
    # What was on disk is not asked for again; of the batch that a kill met nothing was.
    assert asked == [7, 7, 6, 6, 7, 7, 6, 6, 7, 7, 6]
    for name, found in whole.items():
        again = rows(evaluations.out, name)
        assert again.keys() == found.keys()
        assert all(again[place]["response_ids"] == row["response_ids"] for place, row in found.items())
    asked.clear()
    evaluations.run(**finished)
    assert not asked


def test_more_samples_are_added_and_other_measures_need_no_new_responses(
    evaluations: Evaluations, finished: dict[str, Any], asked: list[int], tiny: TinyRuns
) -> None:
    before = rows(evaluations.out, "ppo")
    evaluations.run(**finished | {"samples_per_prompt": 3})
    assert sum(asked) == 30
    asked.clear()
    del finished["reward"]
    evaluations.run(**finished, reference="base")
    assert not asked
    after = rows(evaluations.out, "ppo")
    for place, row in before.items():
        assert after[place]["response_ids"] == row["response_ids"]
        assert after[place]["scores"] == {}
        assert after[place]["kl"] != row["kl"]
    assert all(row["kl"] == 0 for (_, sample), row in rows(evaluations.out, "base").items() if sample < 2)
    # The verdicts of a reward model that is gone are not this evaluation's.
    assert read_results(evaluations.out).keys() == {"outputs"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 2}, "seed: 1 -> 2"),
        ({"sampling": {"max_response_tokens": 6, "temperature": 0.5}}, "sampling.temperature: 1.0 -> 0.5"),
        ({"limit": 9}, "prompts: "),
        ({"chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}, "chat_template: "),
        ({"models": {"base": "embedded:tiny", "sft": "embedded:tiny"}}, "model: "),
    ],
)
def test_responses_made_otherwise_are_refused(
    evaluations: Evaluations,
    finished: dict[str, Any],
    failing: Callable[..., str],
    asked: list[int],
    change: dict[str, Any],
    words: str,
) -> None:
    before = (evaluations.out / "generations" / "sft.jsonl").read_bytes()
    message = failing(**finished | change)
    assert words in message
    assert "--overwrite true" in message
    assert str(evaluations.out / "generations") in message
    assert not asked
    assert (evaluations.out / "generations" / "sft.jsonl").read_bytes() == before
    evaluations.run(**finished | change, overwrite=True)
    # Models whose responses fit are left as they are.
    assert sum(asked) == (20 if "models" in change else 54 if "limit" in change else 60)


def test_damaged_rows_name_the_line(
    evaluations: Evaluations, finished: dict[str, Any], failing: Callable[..., str]
) -> None:
    file = evaluations.out / "generations" / "ppo.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], lines[2][:30] + "\n", *lines[3:]]))
    assert "ppo.jsonl:3: not a row" in failing(**finished)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": {}}, "models: is empty"),
        ({"models": {"a/b": "embedded:tiny"}}, "models: 'a/b' cannot be a name"),
        ({"baseline": "other"}, "baseline: 'other' is none of the models: base"),
        ({"sampling": {"max_response_tokens": 0}}, "sampling.max_response_tokens is 0"),
        ({"sampling": {"max_response_tokens": 600}}, "models.base: the prompt "),
        ({"models": {"base": "embedded:huge"}}, "models.base: unknown embedded model"),
        ({"device": "cuda:99"}, "device: 'cuda:99' cannot be used"),
        ({"reward": "embedded:tiny"}, "reward: 'embedded:tiny' is not a reward model"),
        ({"judges": {"j": {"class_path": "rlhf_lightning.evaluation.judges.RewardJudge"}}}, "judges.j: there is no"),
        ({"judges": {"j": {"class_path": "rlhf_lightning.quickstart.gold_judge.GoldJudge"}}}, "has no `check`"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(failing: Callable[..., str], change: dict[str, Any], words: str) -> None:
    assert words in failing(**{"models": {"base": "embedded:tiny"}} | change)


def test_responses_to_other_prompts_with_the_same_ids(
    evaluations: Evaluations, failing: Callable[..., str], tmp_path: Path
) -> None:
    texts = ["What is a cat?", "Another prompt?", "x"]
    path = tmp_path / "elsewhere.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"p{i}", "prompt": t, "response": "r"}) + "\n" for i, t in enumerate(texts))
    )
    message = failing(models={"one": str(path)})
    assert "elsewhere.jsonl, line 2: it answers 'Another prompt?', but the prompt with the id 'p1' is" in message


def test_two_rows_with_one_id(failing: Callable[..., str], jsonl: Callable[..., str]) -> None:
    file = jsonl([{"id": "a", "prompt": "One?"}, {"id": "a", "prompt": "Two?"}])
    assert "have the same id 'a'" in failing(models={"base": "embedded:tiny"}, prompts=file)


def test_models_on_one_base_share_it(tiny: TinyRuns) -> None:
    settings = EvaluateSettings(models(tiny), PROMPTS, reward=str(tiny.root / "reward"), precision="32-true")
    context = EvaluationContext(settings)
    places = [context.model(name).backbone for name in ("base", "sft", "ppo")]
    assert places[0] is places[1] is places[2]
    assert context.reward("reward")._place == (places[0], "reward-reward")


def test_greedy_decoding_is_the_most_likely_token(tiny: TinyRuns) -> None:
    settings = EvaluateSettings(models(tiny), PROMPTS, sampling=DecodingSettings(4, 0.0), precision="32-true")
    context = EvaluationContext(settings)
    model = context.model("ppo")
    prompt = model.template.encode_prompt("What is a cow?")
    one, two = model.generate([prompt, prompt], [1, 2], settings.sampling.for_engine())
    assert one == two
    scores = model.token_scores([(prompt, one.ids)])[0]
    other = model.token_scores([(prompt, [one.ids[0] % 200 + 3])])[0]
    assert scores.logprobs[0] > other.logprobs[0]


def test_numbers_that_are_not_finite_stop_it(tmp_path: Path) -> None:
    row = Generation("p", 0, "What?", "That.", True, 2, 1, [5, 2], kl=float("nan"))
    with pytest.raises(UserError, match="The kl of a response to the prompt 'p' is nan"):
        GenerationFile(tmp_path, "m").append([row])
