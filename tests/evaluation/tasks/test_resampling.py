"""Metrics over items and their intervals, and ROUGE and BLEU against the libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu
from torchmetrics.functional.text import sacre_bleu_score
from torchmetrics.functional.text.rouge import rouge_score

from rlhf_lightning.evaluation.intervals import mean_interval, rate_interval
from rlhf_lightning.evaluation.tasks.overlap import bleu_metric, bleu_parts, rouge_scores
from rlhf_lightning.evaluation.tasks.resampling import Metric, estimate, mean_of

TEXTS = ["The cat sat on the mat.", "A dog barks, loudly!", "It rains", "He gave her 3 books in 1990."]
REFERENCES = [
    ["The cat is sitting on the mat.", "A cat sat on a mat."],
    ["The dog barked loudly!"],
    ["It rains cats and dogs.", "It is raining"],
    ["He gave her three books in 1990."],
]


def test_a_mean_has_the_interval_of_the_project() -> None:
    values = np.random.default_rng(0).random(200).tolist()
    ours = estimate(mean_of("x", is_rate=False), [{"x": v} for v in values], seed=0)
    theirs = mean_interval(values)
    assert ours is not None
    assert ours.mean == pytest.approx(theirs.mean)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert (ours.high - ours.low) / 2 == pytest.approx(1.96 * np.std(values) / math.sqrt(200), rel=0.1)


def test_a_rate_is_uncertain_where_all_items_came_out_alike() -> None:
    wrong = estimate(mean_of("right"), [{"right": 0.0}] * 4, seed=0)
    assert wrong is not None
    expected = rate_interval([0.0] * 4)
    assert (wrong.mean, wrong.low, wrong.high, wrong.n) == (0, 0, expected.high, 4)
    assert wrong.high > 0.4
    beyond = estimate(mean_of("score"), [{"score": 3.0}, {"score": 5.0}], seed=0)  # no rate after all
    assert beyond is not None
    assert (beyond.low, beyond.high) == (3, 5)


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    outcomes = [{"nll": 10.0, "tokens": 10}, {"nll": 10.0, "tokens": 2}]
    found = estimate(Metric("nats", lambda o: (o["nll"], o["tokens"])), outcomes, seed=0)
    assert found is not None
    assert found.mean == pytest.approx(20 / 12)
    assert (found.low, found.high) == (1.0, 5.0)
    assert estimate(mean_of("other"), outcomes, seed=0) is None


@pytest.mark.parametrize("tokenizer", ["13a", "char"])
def test_bleu_is_sacrebleus(tokenizer: str) -> None:
    parts = [{"bleu": bleu_parts(t, r, tokenizer)} for t, r in zip(TEXTS, REFERENCES, strict=True)]
    found = estimate(bleu_metric(), parts, seed=0)
    assert found is not None
    columns = [[r[i] if i < len(r) else None for r in REFERENCES] for i in range(2)]
    theirs = sacrebleu.corpus_bleu(TEXTS, columns, tokenize=tokenizer)
    assert found.mean == pytest.approx(theirs.score)
    assert found.low <= found.mean <= found.high
    if tokenizer == "13a":
        one = estimate(bleu_metric(), parts[:2], seed=0)
        torchmetrics = sacre_bleu_score(TEXTS[:2], REFERENCES[:2], tokenize=tokenizer)
        assert one is not None
        assert one.mean == pytest.approx(100 * float(torchmetrics), abs=1e-3)


def test_rouge_is_torchmetrics() -> None:
    for text, references in zip(TEXTS, REFERENCES, strict=True):
        ours = rouge_scores(text, references[:1])
        theirs = rouge_score(text, references[0], use_stemmer=True, rouge_keys=("rouge1", "rouge2", "rougeL"))
        assert ours == pytest.approx({k: float(theirs[f"{k}_fmeasure"]) for k in ours})
        both = rouge_scores(text, references)
        assert all(both[k] >= ours[k] for k in ours)
    assert rouge_scores("", REFERENCES[0]) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
