"""Synthetic stand-ins for a weak model's samples: good, careless, rambling, vague, off-topic and looping ones."""

from random import Random

from rlhf_lightning.quickstart.families import FAMILIES
from rlhf_lightning.quickstart.gold import Check
from rlhf_lightning.quickstart.topics import Topic, bank_topics

UNHELPFUL = (
    "You can do it at night.",
    "It is wrong to do that.",
    "I would ask someone.",
    "Start early and be quick.",
)


def candidates(check: Check, rng: Random) -> list[tuple[str, bool]]:
    """4 to 12 responses as (text, ended), some perhaps equal."""
    family = FAMILIES[check["family"]]
    topic = next(t for t in (*family.topics(False), *family.topics(True)) if t.name == check["topic"])
    return [_candidate(check, topic, rng) for _ in range(rng.randint(4, 12))]


def _candidate(check: Check, topic: Topic, rng: Random) -> tuple[str, bool]:
    facts = topic.facts or UNHELPFUL
    kind = rng.choices(
        ("good", "plain", "two facts", "cut off", "vague", "vague and long", "off topic", "looping"),
        weights=(25, 30, 13, 10, 6, 5, 5, 6),
    )[0]
    if kind == "good":
        return FAMILIES[check["family"]].write(topic, check["params"], rng), True
    if kind == "plain":
        return rng.choice(facts), True
    if kind == "two facts":
        return f"{rng.choice(facts)} {rng.choice(facts)}", True
    if kind == "cut off":
        rambling = " ".join(rng.choice(facts) for _ in range(6)).split()
        return " ".join(rambling[: rng.randint(18, 28)]), False
    if kind == "vague":
        return f"{topic.name.capitalize()} are great.", True
    if kind == "vague and long":
        return f"I think {topic.name} are very important to many people, and they are useful.", True
    if kind == "off topic":
        return rng.choice(rng.choice(bank_topics(False)).facts), True
    fact = rng.choice(facts)
    return f"{fact} {fact}", rng.random() < 0.5
