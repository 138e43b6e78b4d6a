"""Repetition and diversity of text, counted in words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+|[^\w\s]")
SELF_BLEU_TEXTS = 200
"""Self-BLEU looks at pairs, so of many texts evenly spaced ones are taken."""


def words(text: str) -> list[str]:
    """Words and punctuation marks, lower case.

    >>> words("Cats eat fish.")
    ['cats', 'eat', 'fish', '.']
    """
    return _WORD.findall(text.lower())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n tokens, in order."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def repetition_n(tokens: Sequence[str], n: int) -> float | None:
    """Share of a text's n-grams that occur in it before (seq-rep-n, arXiv 1908.04319); None if it has none.

    >>> repetition_n("a b a b a".split(), 2)
    0.5
    """
    grams = ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Different n-grams of all texts over all their n-grams (distinct-n, arXiv 1510.03055); None if there are none.

    It falls as text grows, so compare models on as many responses.

    >>> distinct_n(["a b".split(), "a c".split()], 1)
    0.75
    """
    grams = [g for tokens in texts for g in ngrams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[Sequence[str]], longest: int = 4) -> float | None:
    """Mean BLEU of each text against all others (arXiv 1802.01886): 1 where all say the same; None below two texts.

    Modified n-gram precisions up to `longest`, 1 added to numerator and denominator above unigrams (Lin and Och
    2004, "ORANGE", as in NLTK's method 2), brevity penalty against the closest length.
    """
    used = [tokens for tokens in _evenly(texts) if tokens]
    if len(used) < 2:
        return None
    precisions = [_leave_one_out(used, n) for n in range(1, longest + 1)]
    lengths = sorted(len(tokens) for tokens in used)
    total = 0.0
    for i, tokens in enumerate(used):
        matched = [precisions[n][i] for n in range(longest)]
        if matched[0][0] == 0:
            continue
        logs = [math.log(hit / of) if n == 0 else math.log((hit + 1) / (of + 1)) for n, (hit, of) in enumerate(matched)]
        others = lengths.copy()
        others.remove(len(tokens))
        closest = min(others, key=lambda length: (abs(length - len(tokens)), length))
        total += math.exp(sum(logs) / longest + min(0.0, 1 - closest / len(tokens)))
    return total / len(used)


def _leave_one_out(texts: Sequence[Sequence[str]], n: int) -> list[tuple[int, int]]:
    """For each text its n-grams that another text has, clipped at that text's count, and all its n-grams."""
    counts = [Counter(ngrams(tokens, n)) for tokens in texts]
    # The largest and second largest count of each n-gram, and whose the largest is: enough to leave any one text out.
    top: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, counter in enumerate(counts):
        for gram, count in counter.items():
            best, owner, second = top.get(gram, (0, -1, 0))
            top[gram] = (count, i, best) if count > best else (best, owner, max(second, count))
    found = []
    for i, counter in enumerate(counts):
        hits = 0
        for gram, count in counter.items():
            best, owner, second = top[gram]
            hits += min(count, second if owner == i else best)
        found.append((hits, sum(counter.values())))
    return found


def _evenly(texts: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    if len(texts) <= SELF_BLEU_TEXTS:
        return list(texts)
    return [texts[i * len(texts) // SELF_BLEU_TEXTS] for i in range(SELF_BLEU_TEXTS)]
