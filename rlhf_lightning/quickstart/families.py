"""All instruction families by name."""

from __future__ import annotations

from rlhf_lightning.quickstart.family import Family
from rlhf_lightning.quickstart.form_families import (
    BULLETS,
    COMMA_LIST,
    EXCLAMATION,
    LOWERCASE,
    QUESTION,
    QUOTED,
    TWO_SENTENCES,
)
from rlhf_lightning.quickstart.refusal import REFUSAL
from rlhf_lightning.quickstart.word_families import (
    AT_MOST_WORDS,
    AVOID_WORD,
    END_WORD,
    INCLUDE_WORD,
    START_PHRASE,
    TWO_WORDS,
)

SEEN = (
    AT_MOST_WORDS,
    INCLUDE_WORD,
    END_WORD,
    START_PHRASE,
    AVOID_WORD,
    LOWERCASE,
    COMMA_LIST,
    QUESTION,
    BULLETS,
    REFUSAL,
)
"""Families of the training rows."""

UNSEEN = (TWO_SENTENCES, QUOTED, TWO_WORDS, EXCLAMATION)
"""Families of held-out prompts only, each a relative of a seen one."""

FAMILIES: dict[str, Family] = {family.name: family for family in (*SEEN, *UNSEEN)}
