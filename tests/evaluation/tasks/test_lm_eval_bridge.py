"""The bridge to lm-eval: its three requests, from a stand-in where it is not installed."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.opening import open_language_models
from rlhf_lightning.evaluation.tasks.lm_eval_bridge import lm_eval_model, run_lm_eval


@dataclass
class Instance:
    """What lm-eval asks with."""

    args: tuple[Any, ...]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with the names of lm-eval's that are used."""
    names = ("lm_eval", "lm_eval.api", "lm_eval.api.model")
    whole, api, model = modules = [ModuleType(name) for name in names]
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)

    class LM:
        """As lm-eval's, which has more."""

    def simple_evaluate(model: Any, tasks: list[str], limit: int | None, **settings: Any) -> dict[str, Any]:
        if "nonsense" in tasks:
            raise KeyError("nonsense")
        assert isinstance(model, LM)
        found = model.loglikelihood([Instance(("a", " b"))] * (limit or 3))  # type: ignore[attr-defined]
        return {"results": {tasks[0]: {"logprob,none": found[0][0]}}, "samples": found, **settings}

    model.LM, whole.simple_evaluate = LM, simple_evaluate  # type: ignore[attr-defined]
    whole.api, api.model = api, model  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return open_language_models({"base": "embedded:tiny"})["base"]


def test_requests_are_answered_in_their_order(stand_in: None, model: LanguageModel) -> None:
    bridged = lm_eval_model(model)
    pairs = [("The cat", " sat"), ("A", " much longer one"), ("The cat", " ran")]
    expected = model.loglikelihood(pairs, with_greedy=True)
    assert bridged.loglikelihood([Instance(p) for p in pairs]) == [(e.logprob, e.greedy) for e in expected]
    (nll,) = model.text_nll(["A whole text."])
    assert bridged.loglikelihood_rolling([Instance(("A whole text.",))]) == [nll.logprob]
    short, sampled = {"until": ["\n"], "max_gen_toks": 4}, {"until": [], "do_sample": True, "temperature": 1.0}
    asked = [("a", short), ("b", {**sampled, "max_gen_toks": 9}), ("c", short), ("b", {**sampled, "max_gen_toks": 9})]
    texts = bridged.generate_until([Instance(a) for a in asked])
    greedy = model.generate(["a", "c"], 4)
    assert [texts[0], texts[2]] == [g.raw for g in greedy]
    assert texts[1] != texts[3]
    assert texts == bridged.generate_until([Instance(a) for a in asked])


def test_results_are_kept(stand_in: None, model: LanguageModel, tmp_path: Path) -> None:
    found = run_lm_eval(model, ["copa"], tmp_path, limit=2, shots=1)
    kept = json.loads((tmp_path / "base" / "lm_eval.json").read_text())
    assert kept["results"] == found
    # Other requests in the batch change the rounding.
    assert found["copa"]["logprob,none"] == pytest.approx(model.loglikelihood([("a", " b")])[0].logprob, abs=1e-4)
    assert len(kept["samples"]) == 2
    with pytest.raises(UserError, match=r"could not run \['nonsense'\]"):
        run_lm_eval(model, ["nonsense"], tmp_path)


def test_without_lm_eval_it_says_what_to_install(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[lm-eval\]'"):
        lm_eval_model(model)


def test_tasks_of_the_real_library(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is an optional extra")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"Is {i} even?", "answer": i % 2} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    shared = {**data, "test_split": "test", "doc_to_text": "{{question}}"}
    choice = {**shared, "task": "choice", "output_type": "multiple_choice", "doc_to_choice": ["yes", "no"]}
    choice |= {"doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}
    text = {**shared, "task": "text", "output_type": "loglikelihood_rolling", "doc_to_text": ""}
    text |= {"doc_to_target": "{{question}}", "metric_list": [{"metric": "bits_per_byte"}]}
    found = run_lm_eval(model, [choice], tmp_path, shots=0) | run_lm_eval(model, [text], tmp_path, shots=0)
    pairs = [(row["question"], f" {word}") for row in rows for word in ("yes", "no")]
    asked = [x.logprob for x in model.loglikelihood([(str(a), b) for a, b in pairs])]
    right = [int(asked[2 * i + 1] > asked[2 * i]) == i % 2 for i in range(6)]
    assert found["choice"]["acc,none"] == pytest.approx(sum(right) / 6)
    nlls = model.text_nll([str(row["question"]) for row in rows])
    bits = -sum(x.logprob for x in nlls) / sum(x.tokens for x in nlls) / math.log(2)
    assert found["text"]["bits_per_byte,none"] == pytest.approx(bits)
