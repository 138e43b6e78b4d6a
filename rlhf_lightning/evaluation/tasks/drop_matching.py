"""Exact match and F1 of answers that are numbers, dates or several spans: DROP (Dua et al. 2019, arXiv 1903.00161).

Spans are compared as bags of words, each with one of the other side, so that the sum of their F1 is largest; a span
with a number counts only where the numbers agree.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def drop_scores(answer: Sequence[str], truths: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Exact match and F1 of an answer, each to the truth that it is closest to.

    Args:
        answer: The spans that were answered.
        truths: The spans of each person who answered; at least one person.
    """
    scores = [(exact_match(answer, truth), f1(answer, truth)) for truth in truths]
    return max(s[0] for s in scores), max(s[1] for s in scores)


def exact_match(answer: Sequence[str], truth: Sequence[str]) -> float:
    """1 if both have the same spans once normalised, in any order.

    >>> exact_match(["The Bears", "42"], ["42.0", "bears"])
    1.0
    """
    ours, theirs = [normalised(s) for s in answer], [normalised(s) for s in truth]
    return float(set(ours) == set(theirs) and len(ours) == len(theirs))


def f1(answer: Sequence[str], truth: Sequence[str]) -> float:
    """Mean F1 over spans, those without a partner counting 0; rounded to two digits, as the data set's authors do.

    >>> f1(["Bears", "Lions"], ["Chicago Bears"])  # 2/3 for the pair, 0 for the lions
    0.33
    """
    ours = [set(normalised(s).split()) for s in answer]
    theirs = [set(normalised(s).split()) for s in truth]
    if not ours or not theirs:
        return float(len(ours) == len(theirs))
    table = [[_bag_f1(a, b) for a in ours] for b in theirs]
    return round(best_assignment(table) / max(len(ours), len(theirs)), 2)


def normalised(span: str) -> str:
    """A span as words without case, punctuation and articles; numbers in one way of writing.

    >>> normalised("The 1,000-yard run")
    '1000.0 yard run'
    >>> normalised("3.50") == normalised("3.5")
    True
    """
    words = [_normalised_word(word) for word in re.split(r"[ -]", span)]
    return " ".join(word for word in words if word)


def _normalised_word(word: str) -> str:
    word = word.lower()
    if not _is_number(word):
        word = word.translate(_PUNCTUATION)
    if _is_number(word):
        word = str(float(word))
    return " ".join(_ARTICLES.sub(" ", word).split())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _bag_f1(ours: set[str], theirs: set[str]) -> float:
    numbers = {w for w in theirs if _is_number(w)}
    if numbers and not numbers & ours:
        return 0.0
    shared = len(ours & theirs)
    if not ours or not theirs:
        return float(not ours and not theirs)
    return 2 * shared / (len(ours) + len(theirs))


def best_assignment(table: Sequence[Sequence[float]]) -> float:
    """The largest sum of entries of which no two share a row or a column (the Hungarian method, O(n² m)).

    >>> best_assignment([[0.9, 0.8], [0.8, 0.1]])  # not 0.9 + 0.1
    1.6
    """
    if len(table) > len(table[0]):
        table = [list(column) for column in zip(*table, strict=True)]
    rows, columns = len(table), len(table[0])
    # Prices of rows and columns, and the row that each column belongs to; number 0 is nobody.
    row_price, column_price, owner = [0.0] * (rows + 1), [0.0] * (columns + 1), [0] * (columns + 1)
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        slack, came_from, done = [float("inf")] * (columns + 1), [0] * (columns + 1), [False] * (columns + 1)
        while owner[column]:
            done[column] = True
            here, step, following = owner[column], float("inf"), 0
            for j in range(1, columns + 1):
                if not done[j]:
                    cost = -table[here - 1][j - 1] - row_price[here] - column_price[j]
                    if cost < slack[j]:
                        slack[j], came_from[j] = cost, column
                    if slack[j] < step:
                        step, following = slack[j], j
            for j in range(columns + 1):
                if done[j]:
                    row_price[owner[j]] += step
                    column_price[j] -= step
                else:
                    slack[j] -= step
            column = following
        while column:
            owner[column] = owner[came_from[column]]
            column = came_from[column]
    return sum(table[owner[j] - 1][j - 1] for j in range(1, columns + 1) if owner[j])
