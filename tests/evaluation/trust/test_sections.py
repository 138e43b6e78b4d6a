"""Each section's numbers by hand, by brute force or by another library."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError

from rlhf_lightning.data.agreement import judgements_of, labeler_agreement
from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.evaluation.trust.calibration import calibrate, fit_temperature, reliability
from rlhf_lightning.evaluation.trust.clustered import (
    benjamini_hochberg,
    difference,
    share_of_some,
    student_to_normal,
    tally,
)
from rlhf_lightning.evaluation.trust.distribution import kolmogorov_smirnov, shift
from rlhf_lightning.evaluation.trust.inputs import response_texts
from rlhf_lightning.evaluation.trust.labelers import Votes, describe_labelers
from rlhf_lightning.evaluation.trust.length import length_bias, logistic_slope
from rlhf_lightning.evaluation.trust.overoptimisation import Optimised, best_of_n, best_of_n_kl, parting
from rlhf_lightning.evaluation.trust.pairs import pair_table
from rlhf_lightning.evaluation.trust.settings import SliceSettings
from rlhf_lightning.evaluation.trust.slices import describe_slices, gap_slices, judge
from tests.evaluation.trust.synthetic import World, make


def test_ece_is_torchmetrics() -> None:
    margin = np.random.default_rng(0).normal(0.5, 2, size=500)
    stated = torch.sigmoid(torch.tensor(np.concatenate([margin, -margin])))
    metric = BinaryCalibrationError(n_bins=10, norm="l1")
    metric.update(stated, torch.cat([torch.ones(500), torch.zeros(500)]).int())
    assert calibrate(margin, np.arange(500)).ece == pytest.approx(float(metric.compute()), abs=1e-6)


def test_the_reliability_curve_is_symmetric() -> None:
    curve = reliability(np.random.default_rng(1).normal(1, 2, size=400), np.arange(400))
    for low, high in zip(curve, reversed(curve), strict=True):
        assert low.pairs == high.pairs
        assert low.accuracy == pytest.approx(1 - high.accuracy)
        assert low.confidence == pytest.approx(1 - high.confidence)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_data_is_found(true: float) -> None:
    rng = np.random.default_rng(2)
    size = rng.exponential(2, size=20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-size / true))
    value, low, high = fit_temperature(np.where(right, size, -size), np.arange(20_000))
    assert low < true < high
    assert value == pytest.approx(true, rel=0.08)
    assert high - low < 0.2 * true


def test_a_model_that_is_wrong_has_no_temperature() -> None:
    assert math.isinf(fit_temperature(np.full(50, -1.0), np.arange(50))[0])


@pytest.mark.parametrize(("degrees", "t"), [(5, 2.571), (10, 2.228), (30, 2.042), (100, 1.984)])
def test_students_quantiles_are_the_tables(degrees: int, t: float) -> None:
    assert student_to_normal(t, degrees) == pytest.approx(1.95996, abs=0.005)


def test_benjamini_hochberg_by_its_definition() -> None:
    p = np.random.default_rng(3).random(30) ** 2
    ordered = np.sort(p)
    for q in (0.05, 0.2, 0.5):
        fits = [k for k in range(1, 31) if ordered[k - 1] <= q * k / 30]
        rejected = set(np.flatnonzero(p <= ordered[max(fits) - 1])) if fits else set()
        assert {i for i, a in enumerate(benjamini_hochberg(p.tolist())) if a <= q} == rejected


def test_intervals_of_clustered_shares_cover() -> None:
    rng, covered, rejected = np.random.default_rng(4), 0, 0
    for _ in range(400):
        chance = rng.beta(4, 2, size=60)  # each prompt has its own; the mean is 2/3
        prompt = np.repeat(np.arange(60), 8)
        hits = rng.random(480) < chance[prompt]
        interval = share_of_some(tally(hits, prompt)).interval
        covered += interval.low <= 2 / 3 <= interval.high
        half = prompt % 2 == 0
        rejected += difference(tally(hits[half], prompt[half]), tally(hits[~half], prompt[~half])).p_below() < 0.05
    assert 0.92 <= covered / 400 <= 0.98
    assert rejected / 400 <= 0.09


def test_a_share_of_all_is_not_certain() -> None:
    one = share_of_some(tally(np.ones(30, dtype=bool), np.repeat(np.arange(10), 3)))
    assert one.value == 1.0
    assert one.interval.low < 0.9
    assert one.interval.high == 1.0


def test_slices_count_and_compare_by_hand() -> None:
    rows = [
        Ranking(prompt="a", responses=("x", "yy"), ranks=(1, 2), category="chat", flags=("odd",)),
        Ranking(prompt="b", responses=("x", "yy"), ranks=(2, 1), category="code"),
        Ranking(prompt="b", responses=("x", "yy", "z"), ranks=(1, 2, 2), category="code"),
    ]
    table = pair_table(rows, [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0, 2.0]])
    settings = SliceSettings(min_pairs=1, min_prompts=2)
    found = {(s.dimension, s.value): s for s in describe_slices(table, table, ("category", "flags"), settings)}
    assert found["category", "code"].accuracy.value == pytest.approx(1 / 3)
    assert (found["category", "code"].train_rows, found["category", "code"].train_pairs) == (2, 3)
    assert found["flags", "odd"].accuracy.value == 1.0
    assert all(s.p is None for s in found.values())  # one prompt each
    assert sum(s.accuracy.pairs for s in gap_slices(table, "length gap")) == 4
    assert [s.worse for s in judge(list(found.values()), settings)] == [False] * len(found)


def test_agreement_of_labelers_is_the_other_implementation() -> None:
    inputs = make(World(planted=True, prompts=20), seed=5)
    table = pair_table(inputs.rankings)
    names = table.values("labeler")
    found = labeler_agreement(judgements_of(inputs.rankings), resamples=0)
    assert found is not None
    everybody = Votes(table, names).among(names)
    assert everybody.right.sum() / everybody.pairs.sum() == pytest.approx(found.overall.without_ties.value)
    for a, b in combinations(names, 2):
        two = Votes(table, names).with_others(a, [b])
        assert two.right.sum() / two.pairs.sum() == pytest.approx(found.pairs[a, b].without_ties.value)


def test_two_labelers_only_and_none() -> None:
    inputs = make(World(planted=True, prompts=60), seed=6)
    two = [i for i, row in enumerate(inputs.rankings) if row.labeler in ("ada", "eve")]
    table = pair_table([inputs.rankings[i] for i in two], [inputs.scores[i] for i in two])
    assert {one.name: one.fault for one in describe_labelers(table, SliceSettings())} == {"ada": "", "eve": "length"}
    nobody = pair_table([Ranking(prompt="a", responses=("x", "y"), ranks=(1, 2))], [[0.0, 1.0]])
    assert describe_labelers(nobody, SliceSettings()) == []


def test_a_length_bias_has_its_size() -> None:
    rng = np.random.default_rng(7)
    rows, scores = [], []
    for i in range(300):
        length, quality = rng.integers(10, 100, size=4), rng.normal(size=4)
        texts = tuple(str(k).ljust(n, "x") for k, n in enumerate(length))
        rows.append(Ranking(prompt=str(i), responses=texts, ranks=tuple(np.argsort(np.argsort(-quality)) + 1)))
        scores.append((quality + 0.02 * length).tolist())
    found = length_bias(pair_table(rows, scores))
    assert found is not None
    longer = [
        own[i] > own[j]
        for row, own in zip(rows, scores, strict=True)
        for i in range(4)
        for j in range(4)
        if len(row.responses[i]) > len(row.responses[j])
    ]
    assert found.model_longer.value == pytest.approx(np.mean(longer))
    slope, error = found.score_per_length
    assert abs(slope / found.gap_deviation - 0.02) < 4 * error / found.gap_deviation
    assert found.labelers_slope[0] < 3 * found.labelers_slope[1]
    assert found.excess.interval.low > 0.1
    assert found.accuracy_longer_preferred is not None
    assert found.accuracy_shorter_preferred is not None
    assert found.accuracy_longer_preferred.value > found.accuracy_shorter_preferred.value + 0.2


def test_the_logistic_slope_that_made_the_data_is_found() -> None:
    rng = np.random.default_rng(8)
    gap = rng.normal(size=20_000)
    first = rng.random(20_000) < 1 / (1 + np.exp(-0.7 * gap))
    slope, error = logistic_slope(np.where(first, gap, -gap), np.arange(20_000))
    assert abs(slope - 0.7) < 3 * error < 0.1


def test_kolmogorov_smirnov_by_brute_force() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.integers(0, 9, 40).astype(float), rng.integers(2, 12, 25).astype(float)
    slow = max(abs((a <= x).mean() - (b <= x).mean()) for x in [*a, *b])
    assert kolmogorov_smirnov(a, b) == pytest.approx(slow)


def test_outputs_beyond_training_ring_the_alarm() -> None:
    rng = np.random.default_rng(10)
    training, prompt = rng.normal(size=2000), np.repeat(np.arange(100), 2)
    assert not shift("same", "score", training, rng.normal(size=200), prompt).alarm
    far = shift("far", "score", training, rng.normal(2.5, 1, size=200), prompt)
    assert far.alarm
    assert far.ks > far.ks_by_chance


def test_best_of_n_by_all_subsets() -> None:
    rng = np.random.default_rng(11)
    proxy, gold = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    for one, n in zip(best_of_n(proxy, gold, [1, 2, 5, 6]), (1, 2, 5, 6), strict=True):
        for row in range(3):
            subsets = list(combinations(range(6), n))
            best = [max(s, key=lambda i: proxy[row, i]) for s in subsets]
            assert one.proxy[row] == pytest.approx(np.mean([proxy[row, i] for i in best]))
            assert one.gold is not None
            assert one.gold[row] == pytest.approx(np.mean([gold[row, i] for i in best]))
        assert one.kl == pytest.approx(math.log(n) - (n - 1) / n)
    assert [p.name for p in best_of_n(proxy, None)] == ["best of 1", "best of 2", "best of 4", "best of 6"]
    assert best_of_n_kl(1) == 0.0


def test_equal_scores_share_their_weight() -> None:
    (one,) = best_of_n(np.zeros((1, 4)), np.array([[0.0, 1.0, 2.0, 3.0]]), [3])
    assert one.gold is not None
    assert one.gold[0] == pytest.approx(1.5)


def test_a_response_that_was_cut_off_is_read_without_its_end() -> None:
    rows = [
        Ranking(prompt="a", responses=("x", "y"), ranks=(1, 2), meta={"ended": [True, False]}),
        Ranking(prompt="b", responses=("x", "y"), ranks=(1, 2)),
    ]
    assert [ended for _, _, ended in response_texts(rows)] == [True, False, True, True]


def curve(gold: list[float], seed: int) -> list[Optimised]:
    rng = np.random.default_rng(seed)
    prompt = rng.normal(size=200)
    noise = [rng.normal(size=(2, 200)) * 0.5 for _ in gold]
    return [
        Optimised(f"it{i}", 2.0 * i, 0.5 * i + prompt + a, g + prompt + b)
        for i, (g, (a, b)) in enumerate(zip(gold, noise, strict=True))
    ]


def test_where_gold_turns_is_found() -> None:
    found = parting(curve([0.0, 0.5, 1.0, 0.6, 0.1], 12))
    assert found is not None
    assert (found.verdict, found.peak, found.at) == ("falls", "it2", "it3")
    assert found.kl_low <= 4.0 <= found.kl_high
    stalled = parting(curve([0.0, 0.5, 1.0, 1.0, 1.0, 1.0], 14))
    assert stalled is not None
    assert stalled.verdict in ("stalls", "together")
    assert parting(curve([0.0], 0)) is None


def test_gold_that_rises_does_not_part() -> None:
    verdicts = [found.verdict for seed in range(40) if (found := parting(curve([0.0, 0.3, 0.6, 0.9], seed)))]
    assert verdicts == ["together"] * 40


def test_flat_gold_is_not_said_to_fall() -> None:
    falls = sum(found.verdict == "falls" for s in range(100) if (found := parting(curve([0.0] * 5, s))))
    assert falls <= 5
