"""Writes the quickstart's data: `python -m rlhf_lightning.quickstart.make_data WHAT --out DIR`, for each of
prompts, rankings and pretraining."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from rlhf_lightning.quickstart.labelers import LABELERS
from rlhf_lightning.quickstart.pretraining import openers, pretraining_rows
from rlhf_lightning.quickstart.rows import (
    MAX_RESPONSES,
    MIN_RESPONSES,
    Row,
    demonstration_rows,
    prompt_rows,
    ranking_rows,
)
from rlhf_lightning.quickstart.topics import bank_topics
from rlhf_lightning.seeding import derive_seed
from rlhf_lightning.whole_files import write_whole

PROMPT_FILES = {
    "demonstrations": ("demonstrations", 320),
    "demonstrations_val": ("demonstrations_val", 40),
    "prompts": ("train", 700),
    "prompts_val": ("val", 64),
    "ranking_prompts": ("ranking", 420),
    "ranking_prompts_heldout": ("ranking_heldout", 60),
    "heldout_seen": ("heldout_seen", 160),
    "heldout_unseen": ("heldout_unseen", 96),
}
"""Split and default number of rows of each file, by the file's name without `.jsonl`."""

PRETRAINING_FILES = {"pretraining": (False, 360), "pretraining_heldout": (True, 72)}
"""Whether it is about the topics of held-out prompts, and the largest number of rows, by the file's name."""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """JSON lines with sorted keys; the file appears whole or not at all."""
    write_whole(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Rows that `write_rows` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_prompts(out_dir: Path, seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Write demonstrations and every file of prompts.

    Args:
        out_dir: Where to; made if it does not exist.
        seed: Of everything random.
        sizes: Rows by file name (without `.jsonl`), where they differ from `PROMPT_FILES`.

    Returns:
        Rows written, by file name.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, (split, default) in PROMPT_FILES.items():
        n = (sizes or {}).get(name, default)
        build = demonstration_rows if name.startswith("demonstrations") else prompt_rows
        write_rows(out_dir / f"{name}.jsonl", build(n, seed, split))
        written[name] = n
    return written


def response_counts(prompts: Sequence[Row], seed: int) -> list[int]:
    """How many responses each prompt gets, 4 to 9."""
    return [Random(f"{seed}/counts/{row['id']}").randint(MIN_RESPONSES, MAX_RESPONSES) for row in prompts]


def write_rankings(
    out_dir: Path,
    train_samples: Sequence[Sequence[tuple[str, bool]]],
    heldout_samples: Sequence[Sequence[tuple[str, bool]]],
    seed: int,
) -> dict[str, int]:
    """Write `rankings.jsonl` (one labeler a prompt) and `rankings_heldout.jsonl` (every labeler).

    Args:
        out_dir: Holds the ranking prompts; the rankings go beside them.
        train_samples: Samples of the rows of `ranking_prompts.jsonl` as (text, ended), [N][K].
        heldout_samples: Samples of the rows of `ranking_prompts_heldout.jsonl`, [N][K].
        seed: Of the labelers.

    Returns:
        Rows written, by file name.
    """
    written = {}
    for name, source, samples in (
        ("rankings", "ranking_prompts", train_samples),
        ("rankings_heldout", "ranking_prompts_heldout", heldout_samples),
    ):
        prompts = read_rows(out_dir / f"{source}.jsonl")
        rows = ranking_rows(prompts, samples, LABELERS, seed, all_labelers=name == "rankings_heldout")
        write_rows(out_dir / f"{name}.jsonl", rows)
        written[name] = len(rows)
    return written


def sample_and_rank(policy: str, out_dir: Path, seed: int) -> dict[str, int]:
    """Sample responses to the ranking prompts from a model, and have them ranked.

    Args:
        policy: SFT artefact or causal LM.
        out_dir: Holds the ranking prompts; the rankings go beside them.
        seed: Of samples and labelers.

    Returns:
        Rows written, by file name.
    """
    # Imported here: writing prompts needs no torch.
    from rlhf_lightning.quickstart.sampling import sample_responses

    drawn: list[list[list[tuple[str, bool]]]] = []
    for source in ("ranking_prompts", "ranking_prompts_heldout"):
        prompts = read_rows(out_dir / f"{source}.jsonl")
        counts = response_counts(prompts, seed)
        drawn.append(sample_responses(policy, [row["prompt"] for row in prompts], counts, seed))
    train, heldout = drawn
    return write_rankings(out_dir, train, heldout, seed)


def write_pretraining(base: str, out_dir: Path, seed: int) -> dict[str, int]:
    """Write pretraining text that the base model makes up itself; held-out topics occur in none that is trained on.

    Args:
        base: Causal LM that writes.
        out_dir: Where to; made if it does not exist.
        seed: Of the samples.

    Returns:
        Rows written, by file name.
    """
    from rlhf_lightning.quickstart.sampling import continue_texts

    out_dir.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, (held_out, limit) in PRETRAINING_FILES.items():
        begun = openers(held_out)
        texts = continue_texts(base, [opener for _, opener in begun], derive_seed(seed, name))
        rows = pretraining_rows(begun, texts, () if held_out else bank_topics(True), limit)
        write_rows(out_dir / f"{name}.jsonl", rows)
        written[name] = len(rows)
    return written


def parser() -> argparse.ArgumentParser:
    """The command line; every file of prompts has an option for its size."""
    top = argparse.ArgumentParser(prog="python -m rlhf_lightning.quickstart.make_data", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    prompts = commands.add_parser("prompts", help="demonstrations and prompts")
    for name, (_, default) in PROMPT_FILES.items():
        option = "train-prompts" if name == "prompts" else name.replace("_", "-")
        prompts.add_argument(f"--{option}", dest=name, type=int, default=default, metavar="N")
    rankings = commands.add_parser("rankings", help="rankings of a model's samples")
    rankings.add_argument("--policy", required=True, help="SFT artefact to sample from")
    pretraining = commands.add_parser("pretraining", help="pretraining text that the base model makes up")
    pretraining.add_argument("--base", default="embedded:smollm2-135m-instruct", help="causal LM that writes it")
    for command in (prompts, rankings, pretraining):
        command.add_argument("--out", type=Path, required=True, metavar="DIR")
        command.add_argument("--seed", type=int, default=0)
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and say what was written."""
    args = parser().parse_args(arguments)
    if args.command == "prompts":
        written = write_prompts(args.out, args.seed, {name: getattr(args, name) for name in PROMPT_FILES})
    elif args.command == "pretraining":
        written = write_pretraining(args.base, args.out, args.seed)
    else:
        written = sample_and_rank(args.policy, args.out, args.seed)
    for name, count in written.items():
        print(f"{args.out / name}.jsonl: {count} rows")


if __name__ == "__main__":
    main()
