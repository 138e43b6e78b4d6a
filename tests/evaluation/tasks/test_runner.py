"""Outcomes are kept, a run that was cut off goes on, and what belongs to another run is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.opening import open_language_models
from rlhf_lightning.evaluation.tasks.multiple_choice import MultipleChoice
from rlhf_lightning.evaluation.tasks.perplexity import Perplexity
from rlhf_lightning.evaluation.tasks.runner import CHUNK, run_task
from rlhf_lightning.evaluation.tasks.task import Outcome

COUNT = 2 * CHUNK + 10


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return open_language_models({"base": "embedded:tiny"})["base"]


def texts(jsonl: Callable[..., str]) -> str:
    return jsonl([{"text": f"text number {i} " + "x" * (i % 7), "category": "ab"[i % 2]} for i in range(COUNT)])


def test_a_run_that_is_cut_off_goes_on(
    model: LanguageModel, jsonl: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = texts(jsonl)
    whole = run_task(Perplexity(data=data), model, tmp_path / "whole")
    asked: list[int] = []
    ask = Perplexity.ask

    def interrupted(self: Perplexity, model: LanguageModel, numbers: Sequence[int], seed: int) -> list[Outcome]:
        asked.extend(numbers)
        if len(asked) == CHUNK + CHUNK:
            raise KeyboardInterrupt
        return ask(self, model, numbers, seed)

    monkeypatch.setattr(Perplexity, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_task(Perplexity(data=data), model, tmp_path / "cut")
    file = tmp_path / "cut" / "base" / "perplexity.jsonl"
    with file.open("a") as out:  # the machine went down while it wrote a line
        out.write('{"item": 64, "nl')
    again = run_task(Perplexity(data=data), model, tmp_path / "cut")
    assert asked == [*range(2 * CHUNK), *range(CHUNK, COUNT)]  # the first chunk is not asked again
    assert file.read_bytes() == (tmp_path / "whole" / "base" / "perplexity.jsonl").read_bytes()
    assert again.metrics == whole.metrics
    assert again.categories == whole.categories
    assert set(whole.categories) == {"a", "b"}
    before = len(asked)
    assert run_task(Perplexity(data=data), model, tmp_path / "cut").metrics == whole.metrics
    assert len(asked) == before
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["result"]["metrics"]["perplexity"]["mean"] == whole.metrics["perplexity"].mean
    assert about["result"]["n"] == COUNT


def test_perplexity_is_that_of_all_tokens(model: LanguageModel, jsonl: Callable[..., str], tmp_path: Path) -> None:
    found = run_task(Perplexity(data=texts(jsonl), limit=5), model, tmp_path).metrics
    likelihoods = model.text_nll([f"text number {i} " + "x" * i for i in range(5)])
    nats, tokens = -sum(x.logprob for x in likelihoods), sum(x.tokens for x in likelihoods)
    assert found["nats_per_token"].mean == pytest.approx(nats / tokens)
    assert found["perplexity"].mean == pytest.approx(2.718281828 ** (nats / tokens), rel=1e-6)
    assert found["bits_per_byte"].mean == pytest.approx(nats / 0.6931471805599453 / tokens)  # a token a byte


@pytest.mark.parametrize(
    ("other", "part"),
    [({"seed": 2}, "`seed` was 1 there and is 2 now"), ({"limit": 3}, "`limit`"), ({"window": 7}, "`context_tokens`")],
)
def test_results_of_another_run_are_refused(
    model: LanguageModel, jsonl: Callable[..., str], tmp_path: Path, other: dict[str, int], part: str
) -> None:
    data = texts(jsonl)
    run_task(Perplexity(data=data, limit=2), model, tmp_path / "out")
    before = (tmp_path / "out" / "base" / "perplexity.jsonl").read_bytes()
    task = Perplexity(data=data, limit=other.get("limit", 2), context_tokens=other.get("window", 2048))
    with pytest.raises(UserError, match="has results of another run") as refused:
        run_task(task, model, tmp_path / "out", seed=other.get("seed", 1))
    assert part in str(refused.value)
    assert (tmp_path / "out" / "base" / "perplexity.jsonl").read_bytes() == before


def test_other_rows_are_another_run_and_another_place_is_not(
    model: LanguageModel, jsonl: Callable[..., str], tmp_path: Path
) -> None:
    run_task(Perplexity(data=jsonl([{"text": "one"}], "a.jsonl")), model, tmp_path / "out")
    run_task(Perplexity(data=jsonl([{"text": "one"}], "b.jsonl")), model, tmp_path / "out")
    with pytest.raises(UserError, match="`rows` was"):
        run_task(Perplexity(data=jsonl([{"text": "two"}], "c.jsonl")), model, tmp_path / "out")


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ("nonsense\n", "is damaged"),
        ('{"item": 1}\n', "not 0, 1, 2"),
        ('{"nll": 1}\n', "is damaged"),
        ("[]\n", "is damaged"),
    ],
)
def test_damaged_outcomes_are_refused(
    model: LanguageModel, jsonl: Callable[..., str], tmp_path: Path, lines: str, part: str
) -> None:
    data = texts(jsonl)
    run_task(Perplexity(data=data, limit=2), model, tmp_path)
    file = tmp_path / "base" / "perplexity.jsonl"
    file.write_text(lines)
    with pytest.raises(UserError, match=part):
        run_task(Perplexity(data=data, limit=2), model, tmp_path)
    file.with_suffix(".json").write_text("{")
    with pytest.raises(UserError, match=r"perplexity.json is damaged"):
        run_task(Perplexity(data=data, limit=2), model, tmp_path)
    file.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="says what it is"):
        run_task(Perplexity(data=data, limit=2), model, tmp_path)


def test_multiple_choice_on_a_model(model: LanguageModel, jsonl: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"question": f"Is {i} even?", "choices": ["yes", "no", "who knows"], "answer": i % 2} for i in range(9)]
    task = MultipleChoice(data=jsonl(rows), examples=jsonl(rows, "train.jsonl"), shots=2)
    found = run_task(task, model, tmp_path)
    lines = [json.loads(x) for x in Path(found.outcomes).read_text().splitlines()]
    assert [x["tokens"] for x in lines] == [[4, 3, 10]] * 9
    for line in lines:
        means = [p / n for p, n in zip(line["logprobs"], line["tokens"], strict=True)]
        assert line["picked"] == means.index(max(means))
    right = sum(x["picked"] == x["answer"] for x in lines) / 9
    assert found.metrics["accuracy"].mean == found.metrics["accuracy_by_tokens"].mean == pytest.approx(right)
