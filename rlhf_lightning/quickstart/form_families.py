"""Families about the form of a response: case, list, lines, kind of sentence."""

from __future__ import annotations

from random import Random
from typing import Any

from rlhf_lightning.quickstart.family import Family, Params
from rlhf_lightning.quickstart.topics import Topic
from rlhf_lightning.quickstart.wording import lines, listed, lower_first, sentences, stem, straighten, words

SHORT = 8
"""Words of a fact that may share a response with others: responses are cut after 40 tokens."""


def _short_facts(topic: Topic) -> list[str]:
    return [fact for fact in topic.facts if len(words(fact)) <= SHORT]


def _grade_lowercase(response: str, params: Params) -> float:
    del params
    capitalised = sum(word != word.lower() for word in response.split())
    return 1.0 if capitalised == 0 else 0.4 / capitalised


def _write_lowercase(topic: Topic, params: Params, rng: Random) -> str:
    del params
    return rng.choice(topic.facts).lower()


LOWERCASE = Family(
    name="lowercase",
    phrasings=(
        "Write a sentence about {topic} in lowercase letters only.",
        "Tell me about {topic}. Do not use any capital letters.",
        "say something about {topic}. use only lowercase letters.",
        "Describe {topic} without a single uppercase letter.",
        "Give me one fact about {topic}, all in lowercase.",
        "Answer in lowercase only: what do you know about {topic}?",
    ),
    grade=_grade_lowercase,
    write=_write_lowercase,
)


def _draw_items(topic: Topic, rng: Random) -> dict[str, Any]:
    del topic
    return {"n": rng.randint(3, 5)}


def _grade_items(response: str, params: Params) -> float:
    items = [words(item.removeprefix(" and ").removeprefix(" or ")) for item in straighten(response).split(",")]
    if len(items) < 2 or len(lines(response)) > 1:
        return 0.0
    short = [" ".join(stem(w) for w in item) for item in items if 1 <= len(item) <= 3]
    # Sentences with commas in them are no lists, and an item repeated is an item less.
    return float((len(set(short)) / len(items)) ** 2 / (1 + abs(len(items) - params["n"])))


def _write_items(topic: Topic, params: Params, rng: Random) -> str:
    by_stem = {stem(k): k for k in topic.keywords}
    return listed(rng.sample(sorted(by_stem.values()), params["n"])) + "."


COMMA_LIST = Family(
    name="comma_list",
    phrasings=(
        "List exactly {n} things that have to do with {topic}, separated by commas.",
        "Name {n} words related to {topic}. Put commas between them.",
        "Give me a comma-separated list of exactly {n} things linked to {topic}.",
        "What goes with {topic}? Answer with {n} items and commas only.",
    ),
    draw=_draw_items,
    grade=_grade_items,
    write=_write_items,
    min_words=2,
    wants_full_stop=False,
)


def _grade_question(response: str, params: Params) -> float:
    del params
    text = straighten(response)
    if text.endswith("?"):
        return 1.0 if len(sentences(text)) == 1 else 0.6
    return 0.3 if "?" in text else 0.0


QUESTIONS = (
    "What do you like most about {topic}?",
    "Have you learned anything about {topic} lately?",
    "Why do so many people care about {topic}?",
    "What was your first experience with {topic}?",
)


def _write_question(topic: Topic, params: Params, rng: Random) -> str:
    del params
    fact = lower_first(rng.choice(topic.facts)).rstrip(".")
    about_fact = (f"Did you know that {fact}?", f"Is it true that {fact}?", f"Have you heard that {fact}?")
    return rng.choice((*about_fact, rng.choice(QUESTIONS).format(topic=topic.name)))


QUESTION = Family(
    name="question",
    phrasings=(
        "Ask me a question about {topic}.",
        "Write one question about {topic} and nothing else.",
        "Say something about {topic} in the form of a question.",
        "What could a teacher ask about {topic}? Write one question.",
        "Your reply must be a single question about {topic}.",
    ),
    grade=_grade_question,
    write=_write_question,
)


def _draw_bullets(topic: Topic, rng: Random) -> dict[str, Any]:
    del topic
    return {"n": rng.randint(2, 3)}


def _grade_bullets(response: str, params: Params) -> float:
    rows = lines(response)
    dashed = {row.lower() for row in rows if row.startswith("- ") and len(words(row)) >= 2}
    other = sum(row.startswith(("* ", "\u2022", "1.", "2.", "3.")) for row in rows)
    return float((len(dashed) + 0.4 * other) / len(rows) / (1 + 0.5 * abs(len(rows) - params["n"])))


def _write_bullets(topic: Topic, params: Params, rng: Random) -> str:
    return "\n".join(f"- {fact}" for fact in rng.sample(_short_facts(topic), params["n"]))


BULLETS = Family(
    name="bullets",
    phrasings=(
        'Give me {n} short facts about {topic}. Put each on its own line, starting with "- ".',
        "Write {n} short bullet points about {topic} with dashes.",
        'Tell me {n} things about {topic}, one on each line. Begin every line with "- ".',
        "Make a bullet list of {n} lines about {topic}. Use dashes.",
    ),
    draw=_draw_bullets,
    grade=_grade_bullets,
    write=_write_bullets,
    wants_full_stop=False,
)


def _grade_two_sentences(response: str, params: Params) -> float:
    del params
    count = len(sentences(response))
    if count == 2:
        finished = straighten(response).rstrip("\"')").endswith((".", "!", "?"))
        return 1.0 if finished and "\n" not in straighten(response) else 0.7
    return 0.6 / abs(count - 2) / 2


def _write_two_sentences(topic: Topic, params: Params, rng: Random) -> str:
    del params
    return " ".join(rng.sample(_short_facts(topic), 2))


TWO_SENTENCES = Family(
    name="two_sentences",
    seen=False,
    phrasings=(
        "Tell me about {topic} in exactly two sentences.",
        "Write two short sentences about {topic}.",
        "Describe {topic}. Your answer must have exactly two sentences.",
        "Say two things about {topic}, each in its own sentence.",
    ),
    grade=_grade_two_sentences,
    write=_write_two_sentences,
)


def _grade_quoted(response: str, params: Params) -> float:
    del params
    text = straighten(response)
    edges = text.startswith('"') + text.rstrip(".").endswith('"')
    return 1.0 if edges == 2 and text.count('"') == 2 else 0.4 if edges else 0.2 if '"' in text else 0.0


def _write_quoted(topic: Topic, params: Params, rng: Random) -> str:
    del params
    return f'"{rng.choice(topic.facts)}"'


QUOTED = Family(
    name="quoted",
    seen=False,
    phrasings=(
        "Tell me about {topic}. Put your whole answer in double quotes.",
        "Write a sentence about {topic} and wrap it in double quotation marks.",
        'Say something about {topic}. Begin and end with the character ".',
        "Describe {topic} in one sentence inside double quotes.",
    ),
    grade=_grade_quoted,
    write=_write_quoted,
)


def _grade_exclamation(response: str, params: Params) -> float:
    del params
    text = straighten(response)
    return 1.0 if text.endswith("!") else 0.4 if "!" in text else 0.0


def _write_exclamation(topic: Topic, params: Params, rng: Random) -> str:
    del params
    return rng.choice(topic.facts).rstrip(".") + "!"


EXCLAMATION = Family(
    name="exclamation",
    seen=False,
    phrasings=(
        "Tell me about {topic}. End with an exclamation mark.",
        "Write an excited sentence about {topic} that ends with an exclamation mark.",
        "Say something about {topic} and finish with the character !",
        "Give me one fact about {topic}. The last character must be an exclamation mark.",
    ),
    grade=_grade_exclamation,
    write=_write_exclamation,
)
