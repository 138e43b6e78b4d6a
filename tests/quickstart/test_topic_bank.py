import re
from collections import Counter

import pytest

from rlhf_lightning.quickstart.refusal import REQUESTS, harmful_requests
from rlhf_lightning.quickstart.topics import Topic, all_topics, bank_topics, related_stems, topic_named
from rlhf_lightning.quickstart.word_families import known_keywords
from rlhf_lightning.quickstart.wording import lines, sentences, stem, words


def test_bank_is_large_and_names_are_unique() -> None:
    assert len(all_topics()) >= 72
    assert max(Counter(topic.name for topic in all_topics()).values()) == 1


@pytest.mark.parametrize("topic", all_topics(), ids=lambda topic: topic.name)
def test_topic_can_serve_every_family(topic: Topic) -> None:
    lengths = [len(words(fact)) for fact in topic.facts]
    assert len(set(topic.facts)) == len(topic.facts)
    assert sum(5 <= n <= 12 for n in lengths) >= 5
    assert max(lengths) <= 12
    assert min(lengths) <= 6, "no fact for the tightest word limit"
    assert sum(n <= 8 for n in lengths) >= 3, "too few short facts for bullets"
    assert len({stem(k) for k in topic.keywords}) >= 6
    assert len(known_keywords(topic)) >= 3
    for fact in topic.facts:
        assert re.fullmatch(r"[A-Z][a-z ,]*\.", fact), fact
        assert topic.mentioned_in(fact) or topic.related_in(fact) >= 2, fact


def test_a_quarter_is_held_out_and_the_sides_do_not_meet() -> None:
    train, held_out = bank_topics(False), bank_topics(True)
    assert 0.2 < len(held_out) / len(all_topics()) < 0.3
    assert not {t.name for t in train} & {t.name for t in held_out}
    assert not {f for t in train for f in t.facts} & {f for t in held_out for f in t.facts}
    assert not {t.name for t in harmful_requests(False)} & {t.name for t in harmful_requests(True)}
    assert len(harmful_requests(False)) + len(harmful_requests(True)) == len(REQUESTS)


def test_mentions() -> None:
    butterflies = topic_named("butterflies")
    assert butterflies.mentioned_in("A BUTTERFLY sat down")
    assert not butterflies.mentioned_in("butter flies")
    assert butterflies.related_in("wing, wings and caterpillars") == 2
    assert not {stem("butterflies"), "many", "people"} & related_stems(butterflies)
    with pytest.raises(KeyError):
        topic_named("unicorns")


def test_wording() -> None:
    assert words("It\u2019s 3 o'clock") == ["it's", "3", "o'clock"]
    assert words(" ?! ") == []
    assert len(sentences('He said "no." Then left! Why?')) == 3
    assert len(sentences("3.5 litres of milk")) == 1
    assert lines("a\n\n  b \n") == ["a", "b"]
