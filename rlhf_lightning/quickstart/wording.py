"""Words, sentences and lines of a response: the few text features that every check is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORD = re.compile(r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*")
SENTENCE_END = re.compile(r"[.!?]+[\"')]*(?=\s|$)|\n+")
CURLY = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'"})


def straighten(text: str) -> str:
    """Curly quotes to straight ones, outer white space removed."""
    return text.translate(CURLY).strip()


def words(text: str) -> list[str]:
    """Lower-case words in order; an apostrophe or hyphen inside a word belongs to it.

    >>> words("I can't, Sir: 2 well-made keys!")
    ['i', "can't", 'sir', '2', 'well-made', 'keys']
    """
    return [match.lower() for match in WORD.findall(straighten(text))]


def sentences(text: str) -> list[str]:
    """Sentences that hold at least one word; a line break ends a sentence too.

    >>> sentences("Bees fly. They sting!\\nRarely")
    ['Bees fly', ' They sting', 'Rarely']
    """
    return [part for part in SENTENCE_END.split(straighten(text)) if WORD.search(part)]


def lines(text: str) -> list[str]:
    """Lines that are not blank, stripped."""
    return [line.strip() for line in straighten(text).split("\n") if line.strip()]


def stem(word: str) -> str:
    """Singular of a regular plural, so that "a butterfly" is about "butterflies".

    >>> [stem(w) for w in ("butterflies", "foxes", "bees", "tomatoes", "glass")]
    ['butterfly', 'fox', 'bee', 'tomato', 'glass']
    """
    word = word.lower()
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 5 and word.endswith("oes"):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def stems(text: str) -> set[str]:
    """Stems of all words of a text."""
    return {stem(word) for word in words(text)}


def lower_first(sentence: str) -> str:
    """The same sentence to be put after an opener; the bank holds no names that this could harm."""
    return sentence[:1].lower() + sentence[1:]


def listed(items: Iterable[str]) -> str:
    """Items with commas between and a capital first letter."""
    joined = ", ".join(items)
    return joined[:1].upper() + joined[1:]
