"""Part of the matrix on the random model, through the project's command line; and the tax, checked against others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.instructgpt.claims.evidence import Evidence
from benchmarks.instructgpt.exact_match import Item, items
from benchmarks.instructgpt.job import Setting, work
from benchmarks.instructgpt.judging import load_epoch
from benchmarks.instructgpt.labeler_groups import LABELERS, write_group_rankings
from benchmarks.instructgpt.matrix import Matrix
from benchmarks.instructgpt.plan import Places
from benchmarks.instructgpt.real_judging import pairs_right
from benchmarks.instructgpt.scale import SCALES
from benchmarks.instructgpt.summary import summarise
from benchmarks.instructgpt.tax import exact_matches, text_losses
from rlhf_lightning.artefacts import open_source
from rlhf_lightning.evaluation.respond import Panel
from rlhf_lightning.models.loading import load_causal_lm


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel({"base": open_source("embedded:tiny", "base")}, "base", dtype=torch.float32)


def test_text_losses_are_those_of_transformers(panel: Panel) -> None:
    texts = ["The pond is large.", "One hen", "A third text that is rather longer than the two before it."]
    lm = load_causal_lm(open_source("embedded:tiny", "base").model)
    found = text_losses(panel, "base", texts)
    for text, nll, tokens in zip(texts, found["nll"], found["tokens"], strict=True):
        ids = torch.tensor([panel.template.encode_document(text)])
        with torch.no_grad():
            mean = float(lm(input_ids=ids, labels=ids).loss)
        assert tokens == ids.shape[1] - 1
        assert nll / tokens == pytest.approx(mean, abs=1e-4)


def test_an_exact_match_is_what_greedy_decoding_writes(panel: Panel) -> None:
    lm = load_causal_lm(open_source("embedded:tiny", "base").model)
    tokenizer = panel.template.tokenizer
    tasks = []
    for prompt in ("Word: apple\nThe same word:", "Country: Italy\nCapital:", "Once"):
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        written = lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        tasks.append((prompt, written[0, ids.shape[1] :].tolist()))

    class Given:
        """The ids as they are: bytes that greedy decoding of a random model writes may be no text."""

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            known = {str(answer): answer for _, answer in tasks} | {str([*a[:2], a[2] ^ 1]): None for _, a in tasks}
            if text in known:
                return {"input_ids": json.loads(text)}
            return {"input_ids": tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]}

    right = [Item("t", prompt, str(answer)) for prompt, answer in tasks]
    wrong = [Item("t", prompt, str([*answer[:2], answer[2] ^ 1])) for prompt, answer in tasks]
    original, panel.template.tokenizer = tokenizer, Given()
    try:
        assert exact_matches(panel, "base", right + wrong) == [1, 1, 1, 0, 0, 0]
    finally:
        panel.template.tokenizer = original


def test_items_are_different_and_do_not_show_their_answer() -> None:
    found = items()
    assert len({(i.family, i.prompt) for i in found}) == len(found) == 100
    for item in found:
        if item.family != "copy":
            assert item.answer.strip() not in item.prompt.replace("\n", " ").split(" ")


def test_ten_labelers_rank_what_the_four_ranked(tmp_path: Path) -> None:
    write_group_rankings(tmp_path)
    train, held = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("rankings", "rankings_heldout")
    )
    names = {labeler.name for labeler in LABELERS}
    assert {row["labeler"] for row in train} == {row["labeler"] for row in held} == names
    assert len({row["prompt"] for row in train}) == len(train) > 400
    assert len(held) > 9 * len({row["prompt"] for row in held})
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}


def test_pairs_of_a_comparison_and_of_a_ranking(panel: Panel) -> None:
    class Scores:
        template = panel.template

        def score_texts(self, prompts: list[str], responses: list[tuple[str, bool]]) -> list[float]:
            return [float(len(text)) for text, _ in responses]

    scale = SCALES["tiny"]
    longer_is_better = Scores()
    pair = {"prompt": "p", "chosen": "long one", "rejected": "short"}
    assert pairs_right(longer_is_better, pair, scale) == [1, 1, 1]  # type: ignore[arg-type]
    ranking = {"prompt": "p", "responses": ["a", "bb", "ccc"], "ranks": [1, 2, 2]}
    assert pairs_right(longer_is_better, ranking, scale) == [0, 0, 2]  # type: ignore[arg-type]


def test_part_of_the_matrix(tmp_path: Path) -> None:
    scale = replace(SCALES["tiny"], limit=8, held_out=4, iterations=1)
    places = Places(tmp_path)
    matrix, setting = Matrix(scale, places, "cpu", (1,)), Setting(scale, places, "cpu", 1)
    jobs = [
        matrix.sft(1),
        matrix.reward(1),
        matrix.ppo(1, 27.8, 0.0, 2),
        matrix.starts(1),
        replace(matrix.many_epochs(1), evaluations=()),
        matrix.selection(1),
    ]
    for job in jobs:
        work(job, setting)
        assert places.is_done(job), job.name
    evidence = Evidence.read(tmp_path)
    curves = evidence.trainings["ppo-g27.8-b0-s1"]["curves"]
    assert {"kl", "proxy", "gold", "ptx_loss", "policy_grad_norm", "ptx_grad_norm"} <= curves.keys()
    ours, sft = evidence.policy("ppo-g27.8-b0", 1), evidence.policy("sft", 1)
    assert ours is not None
    assert sft is not None
    assert len(ours["seen"]["gold"][0]) == len(ours["unseen"]["gold"][0]) == 4
    assert sft["seen"]["kl"] == [[0.0] * 4]
    assert ours["text"] != sft["text"]
    assert evidence.evaluations["selection-s1"]["result"]["epochs"].keys() == {"1", "2"}
    assert "ppo-g27.8-b0-s1" not in summarise(places, jobs, {"scale": "tiny"}, with_plots=True).read_text()

    # Of a finished run nothing is done again, and a record that is missing is all that is made.
    before = places.training("sft-s1").stat().st_mtime_ns, places.record("sft-s1").stat().st_mtime_ns
    places.record("base-s1").unlink()
    for job in jobs[:4]:
        work(job, setting)
    assert places.record("base-s1").is_file()
    assert before == (places.training("sft-s1").stat().st_mtime_ns, places.record("sft-s1").stat().st_mtime_ns)

    # The last epoch's checkpoint is what the run ended with, unless an earlier one was better.
    sources = {n: open_source(str(places.run(n)), n) for n in ("sft-s1", "epochs-s1")}
    loaded = Panel({"reference": sources["sft-s1"], "candidate": sources["epochs-s1"]}, "reference")
    best = json.loads((places.run("epochs-s1") / "final/stage.json").read_text())["metrics"]["best/epoch"]
    load_epoch(loaded, "candidate", places.run("epochs-s1"), int(best))
    final = load_file(places.run("epochs-s1") / "final/adapter_model.safetensors")
    backbone, _ = loaded._places["candidate"]
    for name, tensor in backbone.adapter_state("candidate").items():
        torch.testing.assert_close(tensor.float(), final[name], atol=1e-6, rtol=1e-6)
    load_epoch(loaded, "candidate", places.run("epochs-s1"), 3 - int(best))
    assert any(
        not torch.equal(tensor.float(), final[name]) for name, tensor in backbone.adapter_state("candidate").items()
    )
