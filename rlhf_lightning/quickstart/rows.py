"""Rows of the data set. Every builder is a function of its seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any

from rlhf_lightning.quickstart.families import FAMILIES, SEEN, UNSEEN
from rlhf_lightning.quickstart.labelers import Labeler, rank

Row = dict[str, Any]

MIN_RESPONSES, MAX_RESPONSES = 4, 9
"""K of a ranking, as in InstructGPT §3.5."""

_POOLS: dict[str, dict[str, int]] = {
    "seen families, train topics": {
        "demonstrations": 24,
        "demonstrations_val": 6,
        "train": 42,
        "val": 8,
        "ranking": 20,
    },
    "seen families, held-out topics": {"heldout_seen": 70, "ranking_heldout": 30},
    "unseen families, held-out topics": {"heldout_unseen": 100},
}
"""Percent of the possible prompts of a pool that each split draws from.

A prompt's text alone decides its split, so splits share none, whatever their sizes and seeds.
"""

SPLITS = tuple(split for pool in _POOLS.values() for split in pool)
DRAWS_PER_ROW = 2000


def split_of(prompt: str, pool: dict[str, int]) -> str:
    """The split of a pool that a prompt belongs to, by a digest of its text."""
    percent = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 100
    for split, share in pool.items():
        if percent < share:
            return split
        percent -= share
    raise ValueError("the shares of a pool do not sum to 100")


def prompt_rows(n: int, seed: int, split: str = "train") -> list[Row]:
    """Prompts, each once, families in equal numbers.

    Args:
        n: How many.
        seed: Of everything random.
        split: One of `SPLITS`; held-out ones have topics of their own.

    Returns:
        Rows with `id`, `prompt`, `category` (the family) and `check`.

    Raises:
        ValueError: Unknown split, or n exceeds what a family can phrase.
    """
    rng = Random(f"{seed}/prompts/{split}")
    rows = _prompts(n, split, rng)
    rng.shuffle(rows)
    return [{"id": f"{split}-{i:04d}", **row} for i, row in enumerate(rows)]


def _prompts(n: int, split: str, rng: Random) -> list[Row]:
    found = [(name, pool) for name, pool in _POOLS.items() if split in pool]
    if not found:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    pool_name, pool = found[0]
    held_out = "held-out topics" in pool_name
    families = UNSEEN if "unseen" in pool_name else SEEN
    rows: list[Row] = []
    taken: set[str] = set()
    for i in range(n):
        family = families[i % len(families)]
        for _ in range(DRAWS_PER_ROW):
            topic = rng.choice(family.topics(held_out))
            params = family.draw(topic, rng)
            prompt = family.prompt(topic, params, rng)
            if prompt not in taken and split_of(prompt, pool) == split:
                break
        else:
            raise ValueError(f"{split}: family {family.name} has too few prompts for {n} rows")
        taken.add(prompt)
        check = {"family": family.name, "topic": topic.name, "params": params, "seen": family.seen}
        rows.append({"prompt": prompt, "category": family.name, "check": check})
    return rows


def demonstration_rows(n: int, seed: int, split: str = "demonstrations") -> list[Row]:
    """Prompts with a response that does what they ask.

    Args:
        n: How many.
        seed: Of everything random.
        split: "demonstrations" or "demonstrations_val".

    Returns:
        Prompt rows that have `response` and `source` too.
    """
    rows = prompt_rows(n, seed, split)
    for row in rows:
        check, rng = row["check"], Random(f"{seed}/{split}/{row['id']}")
        family = FAMILIES[check["family"]]
        topic = next(t for t in family.topics(False) if t.name == check["topic"])
        row |= {"response": family.write(topic, check["params"], rng), "source": "quickstart-writer"}
    return rows


def ranking_rows(
    prompts: Sequence[Row],
    samples: Sequence[Sequence[tuple[str, bool]]],
    labelers: Sequence[Labeler],
    seed: int,
    all_labelers: bool,
) -> list[Row]:
    """Rankings of a model's samples.

    Args:
        prompts: Prompt rows, [N].
        samples: Responses of each as (text, ended), [N][any]. Repeated and empty ones are left out, and
            so are those after the ninth; a prompt with fewer than four is dropped.
        labelers: Who ranks.
        seed: Of noise, and of who ranks what.
        all_labelers: One row per labeler and prompt, to measure agreement; otherwise one of a random labeler.

    Returns:
        Rows with `id`, `prompt`, `category`, `check`, `responses` [K], `ended` [K], `ranks` [K], `labeler` and
        `labeler_group`. Rows whose responses are all tied say nothing and are left out.
    """
    rows: list[Row] = []
    for prompt, drawn in zip(prompts, samples, strict=True):
        distinct = distinct_responses(drawn)[:MAX_RESPONSES]
        if len(distinct) < MIN_RESPONSES:
            continue
        chosen = Random(f"{seed}/labeler/{prompt['id']}").choice(labelers)
        for labeler in labelers if all_labelers else (chosen,):
            rng = Random(f"{seed}/ranks/{prompt['id']}/{labeler.name}")
            ranks = rank(labeler, prompt["check"], distinct, rng)
            if max(ranks) == 1:
                continue
            rows.append(
                {
                    **{key: prompt[key] for key in ("prompt", "category", "check")},
                    "id": f"{prompt['id']}-{labeler.name}",
                    "responses": [text for text, _ in distinct],
                    "ended": [ended for _, ended in distinct],
                    "ranks": ranks,
                    "labeler": labeler.name,
                    "labeler_group": labeler.group,
                }
            )
    return rows


def distinct_responses(drawn: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The first of each text in order, without those that are blank; outer white space makes no difference."""
    kept: dict[str, tuple[str, bool]] = {}
    for text, ended in drawn:
        if text.strip():
            kept.setdefault(text.strip(), (text, ended))
    return list(kept.values())
