"""Verdicts on records whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.instructgpt.claims.beta import BLOCKS, beta, onset_of
from benchmarks.instructgpt.claims.evidence import Evidence, mean_over_units, recovered
from benchmarks.instructgpt.claims.groups import groups
from benchmarks.instructgpt.claims.ordering import ordering
from benchmarks.instructgpt.claims.overoptimisation import onset
from benchmarks.instructgpt.claims.recipe import divergence, recipe
from benchmarks.instructgpt.claims.selection import selection
from benchmarks.instructgpt.claims.tax import tax
from benchmarks.instructgpt.job import note_divergence
from benchmarks.instructgpt.plan import Job, Places
from benchmarks.instructgpt.summary import costs, summarise
from rlhf_lightning.evaluation.intervals import mean_interval

PROMPTS, DOCUMENTS, ITEMS = 40, 30, 50
SOURCE = {"commit": "c", "versions": {}, "machine": {"device": "d"}, "seconds": 1.0}


def policy(gold: float, nats: float, matched: int, **facts: float) -> dict[str, Any]:
    """An evaluation with a mean gold, a loss a token, and a number of exact matches; prompts differ, models alike."""
    wave = 0.05 * np.sin(np.arange(PROMPTS))
    rounds = [(gold + wave).tolist(), (gold - wave).tolist()]
    seen = {"gold": rounds} | {k: [[1.0] * PROMPTS] for k in ("score", "kl", "tokens", "ended")}
    text = {"nll": [10 * nats + 0.1 * (i % 3) for i in range(DOCUMENTS)], "tokens": [10] * DOCUMENTS}
    exact = [int(i < matched) for i in range(ITEMS)]
    result = {"seen": seen, "unseen": {"gold": rounds}, "text": text, "exact_match": exact}
    return {"kind": "policy", "result": result, "facts": facts, **SOURCE}


def training(seed: int, **curves: list[float]) -> dict[str, Any]:
    return {"seed": seed, "curves": curves, "facts": {}, **SOURCE}


def paper_like() -> Evidence:
    """Three seeds in which everything is as the paper says."""
    evaluations, trainings = {}, {}
    falls = [0.5] * 8 + [0.6] * 4 + [0.8, 0.82, 0.84, 0.85, 0.86, 0.84, 0.82, 0.8] + [0.6] * 8 + [0.4, 0.41] * 10
    for s in (1, 2, 3):
        evaluations[f"base-s{s}"] = policy(0.2, 3.0, 48)
        evaluations[f"sft-s{s}"] = policy(0.5, 3.2, 45)
        evaluations[f"sft16-s{s}"] = policy(0.52, 3.3, 45)
        evaluations[f"ppo-g0-b0.05-s{s}"] = policy(0.7, 3.5, 20, gamma=0.0, beta=0.05)
        evaluations[f"ppo-g4-b0.05-s{s}"] = policy(0.7, 3.05, 46, gamma=4.0, beta=0.05)
        evaluations[f"ppo-g0-b0-s{s}"] = policy(0.4, 3.9, 10, gamma=0.0, beta=0.0)
        evaluations[f"ppo-g0-b2-s{s}"] = policy(0.5, 3.2, 44, gamma=0.0, beta=2.0)
        evaluations[f"ppo-budget-s{s}"] = policy(0.65, 3.4, 30, gamma=0.0, beta=0.0)
        epochs = {str(e): {"val_loss": 1 + e / 10, "rm_score": e / 10, "gold": [[e / 20] * 20]} for e in (1, 2, 3, 4)}
        evaluations[f"selection-s{s}"] = {"kind": "selection", "seed": s, "result": {"epochs": epochs}, **SOURCE}
        rising, kl = list(np.arange(12.0)), list(np.arange(48.0) / 2)
        trainings[f"ppo-g0-b0-s{s}"] = training(s, kl=kl, proxy=kl, gold=falls)
        trainings[f"ppo-budget-s{s}"] = training(s, kl=kl[:14])  # 6.0 nats are within, 6.5 are not
        trainings[f"paper-s{s}"] = training(s, ptx_loss=[3.0] * 12, proxy=rising, kl=rising, skipped_steps=[0.0] * 12)
    return Evidence(evaluations, trainings)


def verdicts(evidence: Evidence) -> list[str]:
    judges = (ordering, tax, beta, recipe, selection)
    return [claim.verdict for judge in judges for claim in judge(evidence)]


def test_the_papers_claims_are_met_where_everything_is_as_in_the_paper() -> None:
    assert verdicts(paper_like()) == ["met"] * 8


def test_without_records_there_is_no_verdict() -> None:
    assert set(verdicts(Evidence({}, {}))) == {"no data"}


def test_a_baseline_that_is_better_than_ppo_is_not_hidden() -> None:
    evidence = paper_like()
    for s in (1, 2, 3):
        evidence.evaluations[f"sft16-s{s}"] = policy(0.8, 3.0, 40)
    claim = ordering(evidence)[0]
    assert claim.verdict == "not met"
    assert "PPO - SFT baseline: -0.100" in claim.reason


def test_one_seed_against_it_leaves_the_order_undecided() -> None:
    evidence = paper_like()
    evidence.evaluations["ppo-g0-b0.05-s3"] = policy(0.45, 3.5, 20, gamma=0.0, beta=0.05)
    claim = ordering(evidence)[0]
    assert claim.verdict == "undecided"
    assert "Against it: PPO - SFT, seed 3" in claim.reason


def test_a_worse_ppo_ptx_is_not_within_five_points() -> None:
    evidence = paper_like()
    for s in (1, 2, 3):
        evidence.evaluations[f"ppo-g4-b0.05-s{s}"] = policy(0.5, 3.05, 46, gamma=4.0, beta=0.05)
    assert ordering(evidence)[1].verdict == "not met"


def test_half_of_a_loss_is_not_eighty_percent_of_it() -> None:
    evidence = paper_like()
    for s in (1, 2, 3):
        evidence.evaluations[f"ppo-g4-b0.05-s{s}"] = policy(0.7, 3.25, 34, gamma=4.0, beta=0.05)
    text, tasks = tax(evidence)
    assert (text.verdict, tasks.verdict) == ("not met", "not met")
    assert text.numbers["recovered"]["mean"] == pytest.approx(0.5)
    assert tasks.numbers["recovered"]["mean"] == pytest.approx(0.5)


def test_every_seed_is_shown_beside_what_they_recover_together() -> None:
    evidence = paper_like()
    evidence.evaluations["ppo-g4-b0.05-s2"] = policy(0.7, 3.25, 34, gamma=4.0, beta=0.05)
    text = tax(evidence)[0]
    assert [one["mean"] for one in text.numbers["recovered_by_seed"].values()] == pytest.approx([0.9, 0.5, 0.9])
    assert "seed 2: 50%" in text.reason


def test_what_cannot_be_divided_stays_infinite() -> None:
    nothing, lost = np.zeros((1, 2)), np.array([[0.0, 1.0]])
    share = recovered(lost, nothing, lost + 1)
    assert share.high == float("inf"), "in a quarter of the resamples nothing was lost"


def test_where_nothing_was_lost_nothing_can_be_recovered() -> None:
    evidence = paper_like()
    for s in (1, 2, 3):
        evidence.evaluations[f"ppo-g0-b0.05-s{s}"] = policy(0.7, 3.0, 48, gamma=0.0, beta=0.05)
    assert [claim.verdict for claim in tax(evidence)] == ["undecided"] * 2


def test_recovered_share_by_hand() -> None:
    base, low = np.full((2, 9), 1.0), np.full((2, 9), 0.5)
    share = recovered(base, low, np.full((2, 9), 0.9))
    assert (share.mean, share.low, share.high) == pytest.approx((0.8, 0.8, 0.8))


def test_intervals_are_those_of_the_project() -> None:
    values = np.random.default_rng(3).normal(size=(1, 60))
    ours, theirs = mean_over_units(values), mean_interval(values[0].tolist())
    assert (ours.mean, ours.low, ours.high) == pytest.approx((theirs.mean, theirs.low, theirs.high), abs=5e-3)


def test_over_optimisation_begins_at_the_best_block() -> None:
    kl, proxy = np.arange(16.0), np.arange(16.0)
    gold = [0.50, 0.51, 0.60, 0.61, 0.70, 0.71, 0.65, 0.66, 0.6, 0.61, 0.5, 0.51, 0.5, 0.51, 0.4, 0.41]
    found = onset(kl, proxy, gold)
    assert found is not None
    assert (found.kl, found.gold, found.gold_at_end) == pytest.approx((5.5, 0.68, 0.455))
    assert onset(kl, proxy, sorted(gold)) is None, "gold rises to the end"
    assert onset(kl, -proxy, gold) is None, "the proxy falls too: that is no over-optimisation"
    noisy = [0.5, 0.7] * 7 + [0.4, 0.78]
    assert onset(kl, proxy, noisy) is None, "within the noise"
    assert onset([1.0], [1.0], [1.0]) is None


def test_noise_is_seldom_taken_for_over_optimisation() -> None:
    rng, same = np.random.default_rng(0), [0.0]
    for iterations in (16, 48):
        runs = [onset(same * iterations, same * iterations, rng.normal(size=iterations)) for _ in range(400)]
        assert sum(found is not None for found in runs) <= 0.05 * len(runs)


def test_a_late_budget_is_not_met() -> None:
    evidence = paper_like()
    for s in (1, 2, 3):
        early = [1.0] * 30 + [7.0]
        evidence.trainings[f"ppo-budget-s{s}"] = training(s, kl=early)
    assert beta(evidence)[0].verdict == "not met"
    assert "the policy of iteration 29" in beta(evidence)[0].reason


def test_a_budget_that_ends_a_run_at_the_top_is_undecided() -> None:
    """Before the middle of the best block of six, and after that of ten."""
    evidence = paper_like()
    places = {onset_of(evidence, "ppo-g0-b0-s1", blocks) for blocks in BLOCKS} - {None}
    iterations = sorted(o.iteration for o in places if o)
    assert iterations[0] < iterations[-1]
    for s in (1, 2, 3):
        evidence.trainings[f"ppo-budget-s{s}"] = training(s, kl=[1.0] * iterations[-1] + [7.0])
    claim = beta(evidence)[0]
    assert claim.verdict == "undecided"
    assert f"iteration {iterations[0]} to {iterations[-1]}" in claim.reason


def test_nothing_is_said_of_every_beta_without_the_largest() -> None:
    evidence = paper_like()
    for s in (1, 2, 3):
        del evidence.evaluations[f"ppo-g0-b2-s{s}"]
    claim = beta(evidence)[1]
    assert claim.verdict == "undecided"
    assert "Without data: β = 2." in claim.reason
    assert "β = 0.05: 0.450 [0.450, 0.450], against SFT 0.300 [0.300, 0.300]" in claim.reason


@pytest.mark.parametrize(
    ("curves", "reason"),
    [
        ({"skipped_steps": [0.0, 2.0]}, "2 steps without a finite gradient"),
        ({"ptx_loss": [3.0, 3.1, 3.2, 3.4, 3.8]}, "pretraining loss from 3.00 to 3.80"),
        ({"proxy": [0.0, 0.5, -1.0]}, "RM score from 0.00 to -1.00"),
        ({"kl": [1.0, 60.0, 2.0]}, "KL up to 60"),
        ({"not_finite": [3.0]}, "3 metrics that are not finite"),
    ],
)
def test_divergence_is_noticed(curves: dict[str, list[float]], reason: str) -> None:
    assert divergence(curves) == [reason]
    evidence = paper_like()
    evidence.trainings["paper-s2"]["curves"] |= curves
    assert recipe(evidence)[0].verdict == "not met"


def test_a_run_that_gave_up_has_diverged(tmp_path: Path) -> None:
    places, job = Places(tmp_path), Job("paper-s2", 0, frozenset(), 2)
    places.log("paper-s2").parent.mkdir()
    places.log("paper-s2").write_text("step 3\nerror: 11 steps in a row had no finite gradient: the loss is nan\n")
    note_divergence(job, places)
    evidence = paper_like()
    del evidence.trainings["paper-s2"]
    assert recipe(evidence)[0].verdict == "undecided"
    found = replace(evidence, diverged=Evidence.read(tmp_path).diverged)
    claim = recipe(found)[0]
    assert claim.verdict == "not met"
    assert "2 of 3 seeds" in claim.reason
    assert "11 steps in a row had no finite gradient" in claim.reason
    places.log("paper-s3").write_text("error: no memory\n")
    note_divergence(replace(job, name="paper-s3"), places)
    assert not places.diverged("paper-s3").is_file()


def test_the_gap_between_groups() -> None:
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "error": 0.005}

    fold = {"training": estimate(0.72), "held_out": estimate(0.70), "gap": estimate(0.02)}
    names = [["a"], ["b"], ["c"], ["d"], ["e"]]
    result = {"plan": {"groups": names}, "folds": [fold] * 5, "mean": fold, "over_folds": {"gap": 0.01}}
    evidence = Evidence({}, {"groups": {"result": result}})
    claim = groups(evidence)[0]
    assert claim.verdict == "met"
    assert claim.numbers["error"] == pytest.approx(((2.776 * 0.01) ** 2 + (1.96 * 0.005) ** 2) ** 0.5), "both, by hand"
    result["over_folds"] = {"gap": 0.012}
    assert groups(evidence)[0].verdict == "undecided", "five folds say less than 1.96 errors would"


def test_costs_are_told_apart_by_run() -> None:
    runs = {"sft-s1": 1.0, "sft-s12": 3.0, "real-sft": 5.0, "groups": 7.0}
    found = costs(Evidence({}, {name: {"seconds": seconds} for name, seconds in runs.items()}))
    assert {name: (one["runs"], one["mean_s"]) for name, one in found.items()} == {
        "train sft": (2, 2.0),
        "train real-sft": (1, 5.0),
        "train groups": (1, 7.0),
    }


def test_the_summary_says_what_is_missing(tmp_path: Path) -> None:
    text = summarise(Places(tmp_path), [], {"scale": "tiny"}, with_plots=False).read_text()
    assert "no data" in text
    assert (tmp_path / "summary.json").is_file()
