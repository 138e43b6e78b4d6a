"""Intervals, ratings and length control: worked examples, other libraries' values, coverage."""

from __future__ import annotations

import math
import warnings

import choix
import numpy as np
import pytest
import torch
from scipy import optimize, special, stats
from torchmetrics.functional import cohen_kappa

from benchmarks.evaluation.coverage import FAR, World, coverage
from rlhf_lightning.evaluation.agreement import agreement, kappa
from rlhf_lightning.evaluation.comparing import Outcome
from rlhf_lightning.evaluation.intervals import rate_interval, t_quantile
from rlhf_lightning.evaluation.length_control import fit, length_controlled, length_term
from rlhf_lightning.evaluation.ratings import bradley_terry, prompt_wins, rating_intervals, ratings
from rlhf_lightning.evaluation.text_statistics import distinct_n, repetition_n, self_bleu


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 20, 99, 499])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_t_quantile_is_scipys(freedom: int, confidence: float) -> None:
    expected = stats.t.ppf(0.5 + confidence / 2, freedom)
    assert t_quantile(freedom, confidence) == pytest.approx(expected, rel=0.01 if freedom == 3 else 0.003)


@pytest.mark.parametrize(("wins", "n"), [(0, 50), (3, 50), (25, 50), (500, 500), (190, 200)])
def test_rate_interval_of_wins_and_losses_is_agresti_and_coulls(wins: int, n: int) -> None:
    """Statsmodels' formula of `proportion_confint(method="agresti_coull")`, with t in place of z for the width."""
    z = stats.norm.ppf(0.975)
    center = (wins + z**2 / 2) / (n + z**2)
    half = stats.t.ppf(0.975, n - 1) * math.sqrt(center * (1 - center) / (n + z**2))
    found = rate_interval([1.0] * wins + [0.0] * (n - wins))
    assert found.low == pytest.approx(max(0, center - half), abs=1e-4)
    assert found.high == pytest.approx(min(1, center + half), abs=1e-4)
    assert found.mean == wins / n


def test_rate_interval_is_symmetrical_and_narrower_with_ties_and_samples() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([0.0, 0.5, 1.0], size=80, p=[0.2, 0.3, 0.5])
    one, other = rate_interval(x.tolist()), rate_interval((1 - x).tolist())
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    all_ties, half_won = rate_interval([0.5] * 80), rate_interval([0.0, 1.0] * 40)
    assert all_ties.high - all_ties.low < 0.25 * (half_won.high - half_won.low)
    assert (rate_interval([1.0]).low, rate_interval([1.0]).high) == (0.0, 1.0)


def test_bradley_terry_is_choix() -> None:
    rng = np.random.default_rng(1)
    wins = rng.integers(1, 30, size=(5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = choix.ilsr_pairwise_dense(wins, tol=1e-12)
        optimum = choix.opt_pairwise(5, [(i, j) for i in range(5) for j in range(5) for _ in range(int(wins[i, j]))])
    for found in (expected, optimum):
        np.testing.assert_allclose(bradley_terry(wins, anchor=2, prior=0), found - found[2], atol=1e-4)


def test_ratings_of_two_models_are_the_log_odds() -> None:
    outcomes = [Outcome(str(i), 0, 1.0 if i < 30 else 0.5 if i < 40 else 0.0) for i in range(50)]
    found = ratings({("a", "b"): outcomes}, ["a", "b", "c"], "b")
    expected = math.log(35.5 / 15.5)
    assert found["a"]["bradley_terry"]["mean"] == pytest.approx(expected)
    assert found["a"]["elo"]["mean"] == pytest.approx(1000 + 400 * math.log10(35.5 / 15.5))
    assert found["b"]["elo"] == {"mean": 1000, "low": 1000, "high": 1000}
    assert found["c"] == {"bradley_terry": None, "elo": None}  # nobody compared it
    both = {("a", "b"): outcomes, ("b", "a"): [Outcome(o.id, 0, 1 - (o.value or 0)) for o in outcomes]}
    assert ratings(both, ["a", "b", "c"], "b") == found


def test_a_model_that_wins_everything_has_a_finite_rating() -> None:
    outcomes = {("a", "b"): [Outcome(str(i), 0, 1.0) for i in range(100)]}
    found = ratings(outcomes, ["a", "b"], "b")["a"]["bradley_terry"]
    assert 3 < found["low"] < found["mean"] < found["high"] < 10


def test_intervals_of_ratings_do_not_care_who_is_listed_first() -> None:
    rng = np.random.default_rng(2)
    outcomes = World(40, 1, 0.0, FAR).draw(40, rng)[0].mean(1)
    order = [2, 0, 3, 1]
    turned = outcomes[:, order][:, :, order]
    one, other = rating_intervals(outcomes, 0), rating_intervals(turned, 1)
    for place, model in enumerate(order):
        assert other[place].low == pytest.approx(one[model].low)


def test_samples_of_a_prompt_are_averaged_for_ratings() -> None:
    outcomes = [Outcome("p", 0, 1.0), Outcome("p", 1, 0.0), Outcome("q", 0, 1.0), Outcome("r", 0, None, "failed")]
    wins = prompt_wins({("a", "b"): outcomes}, ["a", "b"])
    assert wins[:, 0, 1].tolist() == [0.5, 1.0, 0.0]
    assert wins[:, 1, 0].tolist() == [0.5, 0.0, 0.0]


def test_length_regression_is_scipys_maximum() -> None:
    rng = np.random.default_rng(3)
    z = np.tanh(rng.normal(size=300))
    y = (rng.random(300) < 1 / (1 + np.exp(-(0.4 + 1.5 * z)))).astype(float)
    y[:60] = 0.5
    weights = rng.uniform(0.5, 2, size=300)

    def minus_log_likelihood(beta: np.ndarray) -> float:
        p = special.expit(beta[0] + beta[1] * z)
        data = float((weights * (y * np.log(p) + (1 - y) * np.log(1 - p))).sum())
        added = 0.5 * np.log(special.expit(beta[0])) + 0.5 * np.log(special.expit(-beta[0]))
        return -(data + added + stats.norm.logpdf(beta[1], scale=5.0))

    found = optimize.minimize(minus_log_likelihood, np.zeros(2), tol=1e-10).x
    np.testing.assert_allclose(fit(y, z, weights), found, atol=1e-4)


def test_length_control_takes_away_what_length_alone_wins() -> None:
    rng = np.random.default_rng(4)
    lengths = rng.integers(-50, 150, size=400)
    by_length = [Outcome(str(i), 0, float(rng.random() < (0.9 if d > 0 else 0.1)), length_difference=int(d))
                 for i, d in enumerate(lengths)]  # fmt: skip
    found = length_controlled(by_length)
    assert found
    assert sum(o.value or 0 for o in by_length) / 400 > 0.65
    assert found["low"] < 0.5 < found["high"]
    assert found["length_effect"] > 1
    equal = [Outcome(str(i), 0, float(i % 4 > 0)) for i in range(100)]
    found = length_controlled(equal)
    assert found
    assert found["mean"] == pytest.approx(75.5 / 101)
    assert length_controlled([Outcome("p", 0, None, "failed")]) is None
    assert length_term(np.zeros(3)).tolist() == [0, 0, 0]


def test_kappa_is_torchmetrics() -> None:
    rng = np.random.default_rng(5)
    one = rng.choice(["first", "second", "tie"], size=200)
    two = np.where(rng.random(200) < 0.6, one, rng.choice(["first", "second", "tie"], size=200))
    assert agreement(one.tolist(), two.tolist()) == pytest.approx(float((one == two).mean()))
    number = {"first": 0, "second": 1, "tie": 2}
    a, b = (torch.tensor([number[v] for v in x]) for x in (one, two))
    assert kappa(one.tolist(), two.tolist()) == pytest.approx(
        float(cohen_kappa(a, b, task="multiclass", num_classes=3))
    )
    assert kappa(["tie"] * 3, ["tie"] * 3) is None
    assert kappa([], []) is None


def test_coverage_of_a_small_simulation() -> None:
    """300 repetitions: a share of 95 % is within 3 standard errors, 91.2 to 98.8 %; ratings have three a repetition.

    benchmarks/evaluation/coverage.json has 1,000 repetitions in more worlds.
    """
    found = coverage(World(60, 2, 0.3, FAR), repetitions=300, seed=1, large=40_000)
    assert 0.6 < found["true win rate"] < 0.8
    assert 0.912 <= found["win rate"] <= 0.988
    assert 0.925 <= found["ratings"] <= 0.975
    # Nearly all won, where the percentile bootstrap falls short.
    found = coverage(World(40, 1, 0.0, (0.0, 3.4)), repetitions=300, seed=1, with_bootstrap=True, large=40_000)
    assert found["true win rate"] > 0.95
    assert found["win rate"] >= 0.912
    assert found["win rate, percentile bootstrap"] < 0.9


def test_repetition_and_diversity() -> None:
    assert repetition_n(["the", "cat", "the", "cat", "the", "cat"], 2) == pytest.approx(3 / 5)
    assert repetition_n(["cat"], 2) is None
    assert distinct_n([["a", "b"], ["a", "b"]], 2) == 0.5
    assert distinct_n([["a"]], 2) is None
    same, different = [["a", "b", "c", "d", "e"]] * 3, [["a", "b"], ["c", "d"], ["e", "f"]]
    assert self_bleu(same) == pytest.approx(1.0)
    assert self_bleu(different) == 0.0
    assert self_bleu([["a"], []]) is None


def test_self_bleu_by_hand() -> None:
    """Each text against the others, unigrams and bigrams: 3 of 4 and (2 + 1) of (3 + 1), lengths equal."""
    texts = [["a", "b", "c", "d"], ["a", "b", "c", "e"]]
    assert self_bleu(texts, longest=2) == pytest.approx(math.sqrt(3 / 4 * 3 / 4))
    # A shorter text is penalized: exp(1 - 4 / 2), all of its words and its bigram occur.
    assert self_bleu([["a", "b"], ["a", "b", "c", "d"]], longest=2) == pytest.approx(
        (math.exp(-1) + math.sqrt(2 / 4 * 2 / 4)) / 2
    )
