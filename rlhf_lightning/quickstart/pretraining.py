"""Pretraining text for the quickstart: what the base model writes by itself, made into documents.

Nobody can ship what SmolLM2 was pretrained on, so the text is self-generated replay: the frozen base model goes on from
short openers at temperature 1, without a chat template. That has two consequences. The model's expected gradient on
such text is zero at the base, so training on it holds a policy where the base was and teaches nothing new. And the loss
of another model on held-out text of this kind, minus the base model's own, estimates KL(base, model) in nats per token
(up to openers, cuts at a sentence's end, and documents left out): an alignment tax with a known zero. What it is not:
it has the mistakes of a 135M model, it is narrower than a corpus, and it says nothing of facts that the model forgets
without writing of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from rlhf_lightning.quickstart.rows import Row
from rlhf_lightning.quickstart.topics import Topic, bank_topics

OPENERS = (
    "The history of {topic}",
    "{Topic} in the city:",
    "Chapter 2. {Topic}",
    "When my grandfather talked about {topic}, he",
    "A short guide to {topic}.",
    "Last week our town",
    "Question: what do scientists know about {topic}?\nAnswer:",
    'The teacher wrote "{topic}" on the blackboard. Then',
    "What nobody tells you about {topic} is",
    "In the newspaper of Monday there was an article on {topic}.",
    "It was a long day, and the children",
    "An experiment with {topic} that you can do at home:",
)
"""Ways to begin; two of them name no topic, and each row of those differs by its random numbers alone."""

MIN_WORDS = 30

UNWANTED = re.compile(
    r"https?:|www\.|@|\d{6}|\.(com|org|net)\b|\ufffd|"  # addresses, numbers, broken characters
    r"\b(sex|rap(e|ed|ist)\b|virgin|nud(e|ity)\b|naked|porn|erotic|breasts?\b|underage|abus|whor|bitch|fuck|shit|s\*\*|"
    r"piss|damn|hell\b|ass\b|butt\b|labia|lusts?\b|pedo|gay\b|pregnan|hiv\b|cancer|addict|opioid|alcohol|"
    r"kill|murder|suicid|guns?\b|rifle|shoot|shot\b|bomb|explosi|weapon|war\b|army\b|militar|soldier|attack|violen|"
    r"stab|hang(ed|ing)\b|poison|tortur|victim|blood|polic(e|ing)\b|crim(e|es|inals?)\b|arrest|"
    r"die[ds]?\b|dead\b|death|corpse|terroris|nazi|hitler|slave|racis|ethnic|immigra|hate|cocaine|heroin|drug|"
    r"jew|muslim|islam|arab|christian|jesus|god|(the|my) lord\b|allah|satan|devil|church|catholic|hindu|buddh|mosque|"
    r"hajj|bible|bethlehem|abu bakr|pray|indian|native american|(black|white) ((wo)?m[ae]n|people)|"
    r"trump|obama|clinton|rockefeller|luther king|malala|elon\b|clooney|bruce willis|kurt russell|brian cox|"
    r"north korea|syria|iraq|israel|palestin|ukrain)",
    re.IGNORECASE,
)
"""A document with any of this is left out whole: a model of this size, let loose, is not always fit to be printed, and
writes addresses and numbers that might be somebody's. Rather too much is left out than too little."""


def openers(held_out: bool) -> list[tuple[str, str]]:
    """Every way to begin with every topic of a side of the split, as (id, opener), in a fixed shuffled order."""
    rows = [
        (f"{topic.name.replace(' ', '_')}-{number}", form.format(topic=topic.name, Topic=topic.name.capitalize()))
        for topic in bank_topics(held_out)
        for number, form in enumerate(OPENERS)
    ]
    Random("pretraining openers").shuffle(rows)
    return rows


def document(opener: str, continuation: str, ended: bool) -> str | None:
    """The text of a row, or None where it is not fit for one.

    A continuation that did not end by itself is cut after its last whole sentence: EOS follows each document in
    training, and must not be learnt in the middle of a sentence.

    Args:
        opener: What the model was given.
        continuation: What it wrote, special tokens left out.
        ended: It came to an end by itself.

    >>> document("The sea", " is deep. " + "It is blue too. " * 10 + "And the", False)[-15:]
    'It is blue too.'
    """
    text = opener + continuation
    if not ended:
        ends = [m.end() for m in re.finditer(r"[.!?][\"')]*(?=\s)", text)]
        text = text[: ends[-1]] if ends else ""
    text = text.strip()
    return text if len(text.split()) >= MIN_WORDS and not UNWANTED.search(text) else None


def pretraining_rows(
    begun: Sequence[tuple[str, str]], written: Sequence[tuple[str, bool]], without: Sequence[Topic], limit: int
) -> list[Row]:
    """Documents of openers and what the model made of them.

    Args:
        begun: (id, opener).
        written: (continuation, ended), one for each.
        without: Topics that no document may name: those of held-out prompts, for text that is trained on.
        limit: At most this many rows.
    """
    rows: list[Row] = []
    for (name, opener), (continuation, ended) in zip(begun, written, strict=True):
        text = document(opener, continuation, ended)
        if text is None or any(topic.mentioned_in(text) for topic in without):
            continue
        rows.append({"id": f"text-{name}", "text": text})
    return rows[:limit]
