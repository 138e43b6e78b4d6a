"""The report names what is wrong with a reward model and its labelers, and nothing where nothing is."""

from __future__ import annotations

import json

import pytest

from rlhf_lightning.evaluation.trust.report import TrustReport, plain, trust_report
from tests.evaluation.trust.synthetic import GAP, NOISY, RULER, World, make

FAULTS = ("training_gap", "noisy_labeler", "length_labeler")


@pytest.fixture(scope="module")
def planted() -> TrustReport:
    return trust_report(make(World(planted=True), seed=0))


def test_all_three_are_named_first(planted: TrustReport) -> None:
    first = {f.kind: f for f in planted.findings if f.severity == 1}
    assert set(first) == set(FAULTS)
    assert [f.severity for f in planted.findings] == sorted(f.severity for f in planted.findings)
    assert GAP in first["training_gap"].subject
    assert "toxic" in first["training_gap"].subject
    assert first["training_gap"].evidence.startswith("0 training rankings with 0 such pairs; ")
    assert first["noisy_labeler"].subject == NOISY
    assert first["length_labeler"].subject == RULER


def test_the_named_labelers_leave_the_slices(planted: TrustReport) -> None:
    assert sorted(planted.labelers_left_out) == sorted([NOISY, RULER])
    group = {s.value: s for s in planted.slices if s.dimension == "labeler_group"}
    own = {s.value: s for s in planted.slices if s.dimension == "labeler"}
    assert group["one"].accuracy.pairs == own["ada"].accuracy.pairs + own["ben"].accuracy.pairs


def test_training_counts_stand_beside_accuracies(planted: TrustReport) -> None:
    cross = {s.value: s for s in planted.slices if s.dimension == "category x worse_flags"}
    assert cross[f"{GAP} x toxic"].train_rows == cross[f"{GAP} x toxic"].train_pairs == 0
    others = [s for name, s in cross.items() if not name.startswith(GAP)]
    assert all(s.train_rows and s.train_pairs and s.train_pairs >= s.train_rows for s in others)
    assert cross[f"{GAP} x toxic"].against == "worse_flags toxic elsewhere"


@pytest.mark.parametrize("uneven", [False, True])
def test_nothing_is_named_where_nothing_is_planted(uneven: bool) -> None:
    for seed in range(4):
        report = trust_report(make(World(planted=False, uneven=uneven), seed))
        assert not [f for f in report.findings if f.kind in FAULTS]


def test_one_fault_alone_is_named_alone() -> None:
    inputs = make(World(planted=True), seed=3)
    kept = [i for i, row in enumerate(inputs.rankings) if row.labeler not in (NOISY, RULER)]
    fewer = type(inputs)([inputs.rankings[i] for i in kept], [inputs.scores[i] for i in kept], inputs.training)
    found = {f.kind for f in trust_report(fewer).findings}
    assert "training_gap" in found
    assert not found & {"noisy_labeler", "length_labeler"}


def test_labelers_that_share_no_prompts_are_told_by_the_model() -> None:
    inputs = make(World(planted=True, prompts=400), seed=1)
    alone = [i for i in range(len(inputs.rankings)) if i % 6 == (i // 6) % 6]
    report = trust_report(type(inputs)([inputs.rankings[i] for i in alone], [inputs.scores[i] for i in alone]))
    found = {f.kind: f.subject for f in report.findings}
    assert found["noisy_labeler"] == NOISY
    assert found["length_labeler"] == RULER
    assert "stands in" in report.left_out["agreement"]
    assert report.left_out["training counts"]
    assert "training_gap" not in found


def test_a_gap_without_harm_is_only_worth_knowing() -> None:
    inputs = make(World(planted=True), seed=2)
    sound = make(World(planted=False), seed=2)
    report = trust_report(type(sound)(sound.rankings, sound.scores, inputs.training))
    kinds = {f.kind: f for f in report.findings}
    assert "training_gap" not in kinds
    assert kinds["untrained_slice"].severity == 3


def test_the_report_is_json_without_nan(planted: TrustReport) -> None:
    content = json.loads(json.dumps(plain(planted), allow_nan=False))
    assert content["accuracy"]["low"] < content["accuracy"]["value"] < content["accuracy"]["high"]
    assert content["findings"][0]["what"]
