"""Families about which words a response has, and how many."""

from __future__ import annotations

from random import Random
from typing import Any

from rlhf_lightning.quickstart.family import Family, Params
from rlhf_lightning.quickstart.topics import Topic
from rlhf_lightning.quickstart.wording import lower_first, sentences, stem, words

AVOIDABLE = ("the", "and", "are", "is", "a", "can", "of", "in", "to", "have")
"""Words common enough that a model uses them unless it takes care."""

OPENERS = (
    "Fun fact:",
    "Most people know that",
    "Many people say that",
    "As a rule,",
    "In short,",
    "It is true that",
    "Everyone should know that",
    "Believe it or not,",
    "Generally speaking,",
    "Remember that",
)


def _facts_with(topic: Topic, word: str) -> list[str]:
    return [fact for fact in topic.facts if word in words(fact)]


def known_keywords(topic: Topic) -> list[str]:
    """Keywords that some fact contains as they stand, other than the topic itself."""
    return [k for k in topic.keywords if stem(k) != stem(topic.name) and _facts_with(topic, k)]


def _draw_limit(topic: Topic, rng: Random) -> dict[str, Any]:
    del topic
    return {"n": rng.randint(6, 14)}


def _grade_limit(response: str, params: Params) -> float:
    limit = params["n"]
    excess = max(0, len(words(response)) - limit)
    return (1.0 if excess == 0 else 0.8 * max(0.0, 1 - excess / limit)) * (
        1.0 if len(sentences(response)) == 1 else 0.7
    )


def _write_limit(topic: Topic, params: Params, rng: Random) -> str:
    return rng.choice([fact for fact in topic.facts if len(words(fact)) <= params["n"]])


AT_MOST_WORDS = Family(
    name="at_most_words",
    phrasings=(
        "Tell me about {topic} in one sentence. Use at most {n} words.",
        "Write one sentence about {topic} with no more than {n} words.",
        "In {n} words or fewer, say one thing about {topic}.",
        "Give me one fact about {topic}. Your sentence must not be longer than {n} words.",
    ),
    draw=_draw_limit,
    grade=_grade_limit,
    write=_write_limit,
)


def _draw_keyword(topic: Topic, rng: Random) -> dict[str, Any]:
    return {"word": rng.choice(known_keywords(topic))}


def _grade_included(response: str, params: Params) -> float:
    used = words(response)
    return 1.0 if params["word"] in used else 0.5 if stem(params["word"]) in map(stem, used) else 0.0


def _write_included(topic: Topic, params: Params, rng: Random) -> str:
    return rng.choice(_facts_with(topic, params["word"]))


INCLUDE_WORD = Family(
    name="include_word",
    phrasings=(
        'Write a sentence about {topic} that contains the word "{word}".',
        'Tell me something about {topic}. Use the word "{word}".',
        'Say one thing about {topic} and mention "{word}".',
        'Describe {topic} in one sentence. The word "{word}" must appear in it.',
    ),
    draw=_draw_keyword,
    grade=_grade_included,
    write=_write_included,
)


def _draw_last(topic: Topic, rng: Random) -> dict[str, Any]:
    last = {words(fact)[-1] for fact in topic.facts}
    return {"word": rng.choice(sorted(w for w in last if stem(w) != stem(topic.name)))}


def _grade_last(response: str, params: Params) -> float:
    used = words(response)
    if used[-1] == params["word"]:
        return 1.0
    if stem(used[-1]) == stem(params["word"]):
        return 0.6
    return 0.4 if params["word"] in used[-4:] else 0.25 if params["word"] in used else 0.0


def _write_last(topic: Topic, params: Params, rng: Random) -> str:
    return rng.choice([fact for fact in topic.facts if words(fact)[-1] == params["word"]])


END_WORD = Family(
    name="end_word",
    phrasings=(
        'Write a sentence about {topic} that ends with the word "{word}".',
        'Tell me something about {topic}. The last word must be "{word}".',
        'Say one thing about {topic} and finish with the word "{word}".',
        'Make "{word}" the last word of a sentence about {topic}.',
    ),
    draw=_draw_last,
    grade=_grade_last,
    write=_write_last,
)


def _draw_opener(topic: Topic, rng: Random) -> dict[str, Any]:
    del topic
    return {"phrase": rng.choice(OPENERS)}


def _grade_opener(response: str, params: Params) -> float:
    used, wanted = words(response), words(params["phrase"])
    if used[: len(wanted)] == wanted:
        return 1.0 if len(used) >= len(wanted) + 2 else 0.5
    if any(used[i : i + len(wanted)] == wanted for i in range(len(used))):
        return 0.5
    return 0.25 if used[0] == wanted[0] else 0.0


def _write_opener(topic: Topic, params: Params, rng: Random) -> str:
    return f"{params['phrase']} {lower_first(rng.choice(topic.facts))}"


START_PHRASE = Family(
    name="start_phrase",
    phrasings=(
        'Say something about {topic}. Start with "{phrase}"',
        'Write a sentence about {topic} that begins with "{phrase}"',
        'Begin your answer with "{phrase}" and tell me about {topic}.',
        'Tell me one thing about {topic}. Your first words must be "{phrase}"',
    ),
    draw=_draw_opener,
    grade=_grade_opener,
    write=_write_opener,
)


def _facts_without(topic: Topic, word: str) -> list[str]:
    return [fact for fact in topic.facts if word not in words(fact)]


def _draw_avoided(topic: Topic, rng: Random) -> dict[str, Any]:
    return {"word": rng.choice([word for word in AVOIDABLE if len(_facts_without(topic, word)) >= 2])}


def _grade_avoided(response: str, params: Params) -> float:
    times = words(response).count(params["word"])
    return 1.0 if times == 0 else 0.4 / times


def _write_avoided(topic: Topic, params: Params, rng: Random) -> str:
    return rng.choice(_facts_without(topic, params["word"]))


AVOID_WORD = Family(
    name="avoid_word",
    phrasings=(
        'Tell me about {topic} without using the word "{word}".',
        'Write a sentence about {topic}. Do not use the word "{word}".',
        'Describe {topic}, but never write the word "{word}".',
        'Say something about {topic}. The word "{word}" is not allowed.',
    ),
    draw=_draw_avoided,
    grade=_grade_avoided,
    write=_write_avoided,
)


def _draw_two(topic: Topic, rng: Random) -> dict[str, Any]:
    first, second = rng.sample(known_keywords(topic), 2)
    return {"first": first, "second": second}


def _grade_two(response: str, params: Params) -> float:
    return sum(_grade_included(response, {"word": params[key]}) for key in ("first", "second")) / 2


def _write_two(topic: Topic, params: Params, rng: Random) -> str:
    first, second = (rng.choice(_facts_with(topic, params[key])) for key in ("first", "second"))
    both = [fact for fact in _facts_with(topic, params["first"]) if params["second"] in words(fact)]
    return both[0] if both else f"{first} {second}"


TWO_WORDS = Family(
    name="two_words",
    seen=False,
    phrasings=(
        'Tell me about {topic}. Use both the word "{first}" and the word "{second}".',
        'Write about {topic} and mention both "{first}" and "{second}".',
        'Say something about {topic} that contains the words "{first}" and "{second}".',
    ),
    draw=_draw_two,
    grade=_grade_two,
    write=_write_two,
)
