"""ROUGE and BLEU, through rouge-score and sacrebleu (`pip install -e '.[evaluation]'`)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.tasks.resampling import Metric, Sums

ROUGE = ("rouge1", "rouge2", "rougeL")


def require(package: str, module: str, key: str) -> Any:
    """An optional package.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{key}: this task needs {package}, which is not installed ({error}). "
            "Install it: pip install -e '.[evaluation]'."
        ) from error


def rouge_scores(text: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L (F1, with stemming), each to the reference that it is highest with."""
    scorer = _rouge()
    found = [scorer.score(reference, text) for reference in references]
    return {name: max(float(f[name].fmeasure) for f in found) for name in ROUGE}


@cache
def _rouge() -> Any:
    return require("rouge-score", "rouge_score.rouge_scorer", "ROUGE").RougeScorer(list(ROUGE), use_stemmer=True)


def bleu_parts(text: str, references: Sequence[str], tokenizer: str) -> list[float]:
    """Lengths of text and reference, and found and possible n-grams for n = 1 to 4: what BLEU sums over a corpus."""
    score = _bleu(tokenizer).sentence_score(text, list(references))
    return [float(x) for x in (score.sys_len, score.ref_len, *score.counts, *score.totals)]


def bleu_metric() -> Metric:
    """Corpus BLEU from 0 to 100, from `bleu_parts` in the outcomes' field `bleu`."""
    return Metric("bleu", lambda outcome: outcome["bleu"], _corpus_bleu)


def _corpus_bleu(sums: Sums) -> Sums:
    bleu = require("sacrebleu", "sacrebleu.metrics", "BLEU").BLEU
    whole = sums.round().astype(int).tolist()
    return np.array([bleu.compute_bleu(r[2:6], r[6:], r[0], r[1], smooth_method="exp").score for r in whole])


@cache
def _bleu(tokenizer: str) -> Any:
    return require("sacrebleu", "sacrebleu.metrics", "BLEU").BLEU(tokenize=tokenizer, effective_order=True)
