"""Exact match and F1 of answers to questions about a text, as for SQuAD (Rajpurkar et al. 2018, arXiv 1806.03822)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """An answer without case, punctuation, articles and extra white space.

    >>> normalised("The  Eiffel-Tower, in Paris!")
    'eiffeltower in paris'
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truth: str) -> float:
    """1 if two answers are the same once normalised, else 0."""
    return float(normalised(answer) == normalised(truth))


def f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall of the words of an answer, repeated words counting as often as they occur.

    >>> f1("in Paris", "Paris")  # precision 1/2, recall 1
    0.6666666666666666
    """
    ours, theirs = normalised(answer).split(), normalised(truth).split()
    if not ours or not theirs:  # "no answer" is right or wrong as a whole
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def squad_scores(answer: str, truths: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of an answer, each to the truth that it is closest to.

    Args:
        answer: What was answered; empty for "there is no answer".
        truths: The answers of several people; none where the question has no answer.
    """
    # A truth of nothing but articles would count as "no answer".
    accepted = [t for t in truths if normalised(t)] or [""]
    return max(exact_match(answer, t) for t in accepted), max(f1(answer, t) for t in accepted)
