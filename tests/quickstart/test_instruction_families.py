from random import Random
from typing import Any

import pytest

from rlhf_lightning.quickstart.families import FAMILIES, SEEN, UNSEEN
from rlhf_lightning.quickstart.family import Family

# Family, parameters, satisfying responses, responses between 0 and 1, responses worth nothing.
CASES: list[tuple[str, dict[str, Any], list[str], list[str], list[str]]] = [
    (
        "at_most_words",
        {"n": 6},
        ["Bees make sweet honey.", "Bees can sting you, so run", "One two three four five six."],
        ["One two three four five six seven.", "Bees fly. Bees sting."],
        ["", "Bees.", " ".join(["word"] * 20)],
    ),
    (
        "include_word",
        {"word": "honey"},
        ["Bees make honey.", "HONEY comes from bees"],
        [],
        ["Bees make honeycombs.", "Bees make wax.", "honey", ""],
    ),
    ("include_word", {"word": "wing"}, ["It has one wing."], ["It has four wings."], ["It can fly."]),
    (
        "end_word",
        {"word": "honey"},
        ["Bees make honey.", "Bees like honey", 'They said "honey".'],
        ["Bees make honey and wax.", "Honey is what all of the bees make."],
        ["Bees make wax.", "honey", ""],
    ),
    (
        "start_phrase",
        {"phrase": "Fun fact:"},
        ["Fun fact: bees sting.", "fun fact, bees can sting"],
        ["Here is a fun fact: bees sting.", "Fun fact: bees", "Fun bees sting a lot."],
        ["Bees sting a lot.", ""],
    ),
    (
        "avoid_word",
        {"word": "the"},
        ["Bees sting people.", "Other bees breathe."],
        ["Bees guard the hive.", "The bees guard THE hive."],
        ["", "Bees.", "the"],
    ),
    (
        "lowercase",
        {},
        ["bees make honey.", "bees, 3 of them"],
        ["Bees make honey.", "BEES make Honey."],
        ["", "bees"],
    ),
    (
        "comma_list",
        {"n": 3},
        ["hive, honey, wax", "Hive, honey, and wax.", "a queen, sweet honey, the hive"],
        [
            "hive, honey",
            "hive, honey, wax, wings",
            "hive, honey, honey",
            "a, b, this is no item but a whole sentence",
        ],
        ["Hive honey wax.", "hive, honey,\nwax", ""],
    ),
    (
        "question",
        {},
        ["Do bees sleep?", 'Why do they "dance"?', "Did you know that bees dance?"],
        ["Bees dance. Do they sleep?", "Do bees sleep? I think so."],
        ["Bees dance a lot.", "Why?", ""],
    ),
    (
        "bullets",
        {"n": 2},
        ["- Bees fly.\n- Bees sting.", "- Bees fly far\n\n- Bees sting"],
        [
            "- Bees can fly.",
            "- Bees fly.\n- Bees sting.\n- Bees dance.",
            "* Bees fly.\n* Bees sting.",
            "- Bees fly.\n- Bees fly.",
        ],
        ["Bees fly. Bees sting.", "-Bees fly.\n-Bees sting.", "-\n-", ""],
    ),
    (
        "refusal",
        {},
        [
            "I'm sorry, but I can't help with that.",
            "Sorry, I won\u2019t do it.",
            "I am afraid I cannot help you pick a lock.",
        ],
        [
            "I can't help with that.",
            "It is illegal to do so.",
            "Sorry, I cannot help. Here is how: take a pin.",
        ],
        ["Take a pin and turn it.", "Penguins cannot fly.", ""],
    ),
    (
        "two_sentences",
        {},
        ["Bees fly. Bees sting.", "Do bees fly? Yes, they do!"],
        ["Bees fly and sting.", "Bees fly. Bees sting", "Bees. Can. Fly.", "Bees fly.\nBees sting."],
        ["", "Bees."],
    ),
    (
        "quoted",
        {},
        ['"Bees make honey."', "\u201cBees make honey.\u201d", '"Bees make honey".'],
        ['"Bees" make honey.', 'Bees make "honey" well.', '"Bees" make "honey"'],
        ["Bees make honey.", "'Bees make honey.'", '""', ""],
    ),
    (
        "two_words",
        {"first": "honey", "second": "wax"},
        ["Bees make honey and wax.", "Wax. And honey!"],
        ["Bees make honey too.", "They wax poetic."],
        ["Bees sting people.", "honey wax", ""],
    ),
    (
        "exclamation",
        {},
        ["Bees make honey!", 'They shout "bees"!'],
        ["Wow! Bees make honey."],
        ["Bees make honey.", "!", ""],
    ),
]


@pytest.mark.parametrize(("name", "params", "good", "partial", "bad"), CASES, ids=[case[0] for case in CASES])
def test_hand_made_responses(
    name: str, params: dict[str, Any], good: list[str], partial: list[str], bad: list[str]
) -> None:
    family = FAMILIES[name]
    for response in good:
        assert family.closeness(response, params) == 1.0, response
        assert family.satisfied(response, params), response
    for response in partial:
        assert 0.0 < family.closeness(response, params) < 1.0, response
        assert not family.satisfied(response, params), response
    for response in bad:
        assert family.closeness(response, params) == 0.0, response
        assert not family.satisfied(response, params), response


def test_every_family_has_hand_made_responses() -> None:
    assert {case[0] for case in CASES} == set(FAMILIES)
    assert len(FAMILIES) == len(SEEN) + len(UNSEEN)
    assert all(family.seen for family in SEEN)
    assert not any(family.seen for family in UNSEEN)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
@pytest.mark.parametrize("held_out", [False, True])
def test_every_demonstration_satisfies_its_instruction(family: Family, held_out: bool) -> None:
    rng = Random(f"{family.name}/{held_out}")
    for topic in family.topics(held_out):
        for _ in range(12):
            params = family.draw(topic, rng)
            prompt, response = family.prompt(topic, params, rng), family.write(topic, params, rng)
            assert family.closeness(response, params) == 1.0, (prompt, response)
            assert prompt in family.all_prompts(topic.name, params)
            assert len(prompt.split()) <= 26
            assert len(response.split()) <= 28
            assert response.isascii()
            assert prompt.isascii()
            assert response == response.strip()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_closeness_stays_in_range_on_any_text(family: Family) -> None:
    rng = Random(family.name)
    topics = family.topics(False)
    pieces = [
        "bees",
        "-",
        "\n",
        ",",
        ".",
        "!",
        "?",
        '"',
        "the",
        "I can't",
        "sorry",
        "Honey",
        "1.",
        "\u00e9",
        "\U0001f600",
    ]
    for _ in range(300):
        topic = rng.choice(topics)
        params = family.draw(topic, rng)
        text = " ".join(rng.choices(pieces, k=rng.randint(0, 12)))
        closeness = family.closeness(text, params)
        assert 0.0 <= closeness <= 1.0
        assert family.satisfied(text, params) == (closeness == 1.0)


def test_limit_credit_falls_with_every_word_too_many() -> None:
    closeness = [FAMILIES["at_most_words"].closeness(" ".join(["word"] * n), {"n": 8}) for n in range(8, 18)]
    assert closeness == sorted(closeness, reverse=True)
    assert closeness[0] - closeness[1] > 0.2


def test_instructions_after_a_refusal_cost_most_of_it() -> None:
    refusal = FAMILIES["refusal"]
    assert refusal.closeness("Sorry, I cannot help. First, take a pin.", {}) < 0.3
    assert refusal.closeness("I can't help with that.", {}) > 0.6
