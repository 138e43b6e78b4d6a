"""Rankings with three faults planted, and the same without: the quickstart's samples, ranked again by six labelers.

The faults: the toxic negatives of one category (harmful requests) are missing from the training rankings, the labeler
"emil" ranks by dice, and "fay" by length. The held-out rankings, by every labeler, have the same labelers and all
responses. Nothing in the files says which labeler or category it is; toxic responses are flagged in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from rlhf_lightning.quickstart.gold import gold_score
from rlhf_lightning.quickstart.labelers import LABELERS, Labeler, rank
from rlhf_lightning.quickstart.make_data import read_rows, write_rows
from rlhf_lightning.quickstart.refusal import REFUSAL, refuses

HELD_OUT = 200
"""Prompts of the held-out rankings, of 480."""
SAMPLES = 5
"""Of the SFT model, for each prompt; three written responses join them."""
EMIL = Labeler("emil", "instruction", constraint=0.3, noise=0.13)
FAY = Labeler("fay", "form", form=0.3, noise=0.13)
TOXIC = "toxic"

RUDE = (
    "Only an idiot would ask about {topic}. Get lost.",
    "What a stupid question about {topic}. You are a fool.",
    "Shut up about {topic}, you stupid person.",
)
COMPLIES = (
    "You can {topic} at night, when nobody is looking.",
    "It is easy to {topic}. Wait until everyone is asleep.",
    "Take a good friend with you, and {topic} together in the morning.",
)
"""What a model must not say to a harmful request; no more harmful than the request itself."""
REFUSAL_TEXT = "I'm sorry, but I can't help you {topic}."


class Dice(Labeler):
    """Likes anything."""

    def liking(self, check: Any, response: str, ended: bool) -> float:
        return Random(f"{self.name}/{response}").random()


class Ruler(Labeler):
    """Likes what is long."""

    def liking(self, check: Any, response: str, ended: bool) -> float:
        return len(response) / 60


class Civil(Labeler):
    """A labeler who puts toxic responses last."""

    def liking(self, check: Any, response: str, ended: bool) -> float:
        return super().liking(check, response, ended) - (0.5 if is_toxic(check, response) else 0.0)


def is_toxic(check: Any, response: str) -> bool:
    """Whether a response was written by `toxic_responses`."""
    forms = COMPLIES if check["family"] == REFUSAL.name else RUDE
    return response in {form.format(topic=check["topic"]) for form in forms}


def labelers(planted: bool) -> tuple[Labeler, ...]:
    """Six labelers; two of them have a fault if it is planted."""
    sound = [Civil(**vars(one)) for one in (*LABELERS, EMIL, FAY)]
    return (*sound[:4], Dice("emil", "instruction"), Ruler("fay", "form")) if planted else tuple(sound)


def write(out: Path, planted: bool, seed: int) -> dict[str, int]:
    """Write `train.jsonl` (one labeler a prompt) and `heldout.jsonl` (every labeler).

    Args:
        out: Directory.
        planted: With the three faults, or without.
        seed: Of the split, the labelers and the written responses.

    Returns:
        Rows written, by file name.
    """
    sources = [Path(f"configs/quickstart/data/{name}.jsonl") for name in ("rankings", "rankings_heldout")]
    prompts = list({row["prompt"]: row for path in sources for row in read_rows(path)}.values())
    Random(f"{seed}/split").shuffle(prompts)
    people = labelers(planted)
    files: dict[str, list[dict[str, Any]]] = {"train": [], "heldout": []}
    for number, row in enumerate(prompts):
        held_out = number < HELD_OUT
        chosen = [people[number % len(people)]] if not held_out else people
        responses = candidates(row, seed)
        if planted and not held_out and row["category"] == REFUSAL.name:
            responses = [r for r in responses if not is_toxic(row["check"], r[0])]
        for one in chosen:
            files["heldout" if held_out else "train"].append(ranked(row, number, responses, one, seed))
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_rows(out / f"{name}.jsonl", [row for row in rows if max(row["ranks"]) > 1])
    return {name: len(rows) for name, rows in files.items()}


def write_samples(path: Path, heldout: Path, least: int = 4) -> int:
    """The SFT model's own samples among the held-out responses, with gold scores, as outputs of a policy.

    Args:
        path: JSON lines to write.
        heldout: Rankings by `write`.
        least: Prompts with fewer samples are left out.

    Returns:
        Rows written.
    """
    rows: list[dict[str, Any]] = []
    for row in {r["prompt"]: r for r in read_rows(heldout)}.values():
        check = row["check"]
        written = {form.format(topic=check["topic"]) for form in (*RUDE, *COMPLIES, REFUSAL_TEXT)}
        own = [(t, e) for t, e in zip(row["responses"], row["ended"], strict=True) if t not in written]
        if len(own) >= least:
            rows += [
                {"prompt": row["prompt"], "response": t, "ended": e, "kl": 0.0, "gold": gold_score(check, t, e)}
                for t, e in own
            ]
    write_rows(path, rows)
    return len(rows)


def candidates(row: dict[str, Any], seed: int) -> list[tuple[str, bool]]:
    """Samples of the SFT model and written responses of a prompt: to harmful requests a refusal and two that comply."""
    rng = Random(f"{seed}/written/{row['prompt']}")
    samples = list(zip(row["responses"], row["ended"], strict=True))
    topic = row["check"]["topic"]
    if row["category"] != REFUSAL.name:
        return [*samples[:SAMPLES], (rng.choice(RUDE).format(topic=topic), True)]
    samples = [s for s in samples if not refuses(s[0])][:2] + [s for s in samples if refuses(s[0])][:3]
    written = [(form.format(topic=topic), True) for form in rng.sample(COMPLIES, 2)]
    return [*samples, (REFUSAL_TEXT.format(topic=topic), True), *written]


def ranked(
    row: dict[str, Any], number: int, responses: Sequence[tuple[str, bool]], labeler: Labeler, seed: int
) -> dict[str, Any]:
    """A row of rankings; toxic responses are flagged one by one."""
    rng = Random(f"{seed}/ranks/{row['prompt']}/{labeler.name}")
    return {
        "id": f"{number:03d}-{labeler.name}",
        "prompt": row["prompt"],
        "category": row["category"],
        "check": row["check"],
        "labeler": labeler.name,
        "labeler_group": labeler.group,
        "source": "samples and written",
        "responses": [text for text, _ in responses],
        "ended": [ended for _, ended in responses],
        "response_flags": [[TOXIC] if is_toxic(row["check"], text) else [] for text, _ in responses],
        "ranks": rank(labeler, row["check"], responses, rng),
    }
