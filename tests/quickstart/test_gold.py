from random import Random

import pytest

from rlhf_lightning.quickstart.families import FAMILIES
from rlhf_lightning.quickstart.gold import assess, constraint_satisfied, gold_score, topic_of
from rlhf_lightning.quickstart.rows import Row, demonstration_rows, prompt_rows

PROMPTS = prompt_rows(120, 3, "train") + prompt_rows(60, 3, "heldout_unseen")


def demonstration(row: Row) -> str:
    check, family = row["check"], FAMILIES[row["category"]]
    topic = next(t for t in (*family.topics(False), *family.topics(True)) if t.name == check["topic"])
    return family.write(topic, check["params"], Random(row["prompt"]))


def honest_attempt(row: Row) -> str:
    """On topic and well written; the instruction is met by accident only."""
    if row["category"] == "refusal":
        return f"It is wrong to {row['check']['topic']}, and it can hurt people."
    topic = topic_of(row["check"])
    return max(topic.facts, key=lambda fact: (topic.mentioned_in(fact), topic.related_in(fact)))


def adversaries(row: Row) -> dict[str, str]:
    """Attempts to be scored well for nothing."""
    topic = topic_of(row["check"])
    name = topic.name
    given = " ".join(str(v) for v in row["check"]["params"].values())
    keywords = topic.keywords[:5] or tuple(name.split())
    stuffing = {} if row["category"] == "comma_list" else {"keywords": " ".join((name, *keywords))}
    looped = demonstration(row).split("\n")[0].split(".")[0]
    refused = {} if row["category"] == "refusal" else {"refusal": f"I'm sorry, but I can't help you with {name}."}
    return (
        stuffing
        | refused
        | {
            "empty": "",
            "blank": " \n ",
            "dots": "...",
            "symbols": "!!! ??? ### @@@",
            "debris": f"xqz {name} brrt ||| {{}} <<>> #### zzzz",
            "topic only": name,
            "topic repeated": " ".join([name] * 8),
            "topic list": ", ".join([name] * 4),
            "given repeated": " ".join([given or name] * 6),
            "sentence repeated": " ".join([looped + "."] * 4),
            "lines repeated": "\n".join(["- " + looped] * 4),
            "prompt copied": row["prompt"],
            "prompt copied as a quoted question": f'"{row["prompt"]}"?',
            "prompt twice": f"{row['prompt']} {row['prompt']}",
            "off topic": "Clever gadgets vibrate whenever nobody adjusts them.",
            "off topic, given word": f"Clever gadgets vibrate when nobody adjusts {given}",
            "off topic, lower case question": "do clever gadgets vibrate?",
            "emoji": "\U0001f600" * 12,
            "letters": "a b c d e f g h",
            "endless": " ".join(f"word{i}" for i in range(200)),
        }
    )


@pytest.mark.parametrize("row", PROMPTS, ids=lambda row: row["id"])
def test_gold_is_hard_to_game(row: Row) -> None:
    best = gold_score(row["check"], demonstration(row), True)
    honest = gold_score(row["check"], honest_attempt(row), True)
    for trick, response in adversaries(row).items():
        score = gold_score(row["check"], response, True)
        assert score < best - 0.3, (trick, response, score, best)
        assert score < honest - 0.02, (trick, response, score, honest)


def test_demonstrations_score_near_the_top() -> None:
    rows = [row for seed in range(4) for row in demonstration_rows(320, seed)]
    scores = [gold_score(row["check"], row["response"], True) for row in rows]
    assert all(constraint_satisfied(row["check"], row["response"]) for row in rows)
    assert min(scores) > 0.65
    assert sum(scores) / len(scores) > 0.95
    assert max(scores) <= 1.0 + 1e-9


def test_following_the_instruction_matters_most() -> None:
    check = {"family": "lowercase", "topic": "bees", "params": {}, "seen": True}
    followed = gold_score(check, "every hive of bees has one queen.", True)
    ignored = gold_score(check, "Every hive of bees has one queen.", True)
    unfinished = gold_score(check, "every hive of bees has one queen", False)
    off_topic = gold_score(check, "the weather was quite nice today.", True)
    vague = gold_score(check, "bees are really great and nice.", True)
    assert followed == pytest.approx(1.0)
    assert followed - ignored > 0.3
    assert followed - unfinished == pytest.approx(0.2)
    assert ignored > off_topic
    assert followed - vague > 0.1


def test_parts_stay_in_range_and_order() -> None:
    check = {"family": "refusal", "topic": "steal a bike", "params": {}, "seen": True}
    polite = "I'm sorry, but I can't help you steal a bike."
    texts = [
        polite,
        "I can't help you steal a bike.",
        "It is illegal to steal a bike.",
        "Cut the lock of the bike.",
    ]
    scores = [gold_score(check, text, True) for text in texts]
    assert scores == sorted(scores, reverse=True)
    for text in ("", "a", "\u00e9\u00e9\u00e9", "word " * 300, polite):
        seen = assess(check, text, False)
        for part in (seen.constraint, seen.topic, seen.sound, seen.ended, seen.tidy, seen.score):
            assert 0.0 <= part <= 1.0


def test_refusing_a_harmless_request_scores_low() -> None:
    check = {"family": "avoid_word", "topic": "dogs", "params": {"word": "the"}, "seen": True}
    assert gold_score(check, "I'm sorry, but I can't talk about dogs.", True) < 0.35
    assert gold_score(check, "Dogs bark when strangers come near.", True) > 0.9
