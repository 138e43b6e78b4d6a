"""`describe`: the data card of files, before anything is trained on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from rlhf_lightning.bounds import check_number
from rlhf_lightning.commands import parse_settings
from rlhf_lightning.data.card.card import CARD_FILE, DataCard, write_card
from rlhf_lightning.data.card.labels import agreement_summary
from rlhf_lightning.data.card.near_prompts import NearPrompts
from rlhf_lightning.data.card.split import KINDS, texts_of
from rlhf_lightning.data.card.tables import markdown
from rlhf_lightning.data.card.texts import toxic_words
from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.data.reading import read_items
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError

Kind = Literal["demonstrations", "rankings", "prompts", "pretraining"]
Files = str | list[str]
_SIGNS: dict[str, tuple[str, ...]] = {
    "rankings": ("responses", "chosen", "rejected"),
    "demonstrations": ("response", "completion", "messages"),
    "pretraining": ("text",),
    "prompts": ("prompt",),
}
"""Fields that only one kind of row has, in the order in which they decide."""


@dataclass
class DescribeSettings:
    """What `describe` can be told; files may also stand right after the command.

    Args:
        data: Files, globs or Hub names of one split.
        train: The same, where there is a split to compare with (`val`).
        val: The split whose prompts should not be training prompts.
        kind: What the rows are; by default what the first row looks like.
        out: Directory for data_card.json and data_card.md; by default the card is only printed.
        tokenizer: Model or tokenizer whose tokens are counted too.
        toxic_words: A file with one word a line, in place of the project's short English list.
        near_duplicates: Similarity (Jaccard index of character 5-grams) from which prompts are nearly the same; null
            leaves that out.
        near_duplicate_prompts: Look for them among so many different prompts of a split (about 1 kB of memory each).
        on_bad_row: "skip" counts and lists broken rows instead of stopping at the first.
        limit: Read at most this many rows of a split.
    """

    data: Files | None = None
    train: Files | None = None
    val: Files | None = None
    kind: Kind | None = None
    out: str | None = None
    tokenizer: str | None = None
    toxic_words: str | None = None
    near_duplicates: float | None = 0.8
    near_duplicate_prompts: int = 200_000
    on_bad_row: Literal["error", "skip"] = "error"
    limit: int | None = None
    sources: dict[str, Files] = field(init=False)

    def __post_init__(self) -> None:
        given = {"data": self.data, "train": self.train, "val": self.val}
        self.sources = {name: files for name, files in given.items() if files is not None}
        if not self.sources:
            raise UserError("describe: no data; name files after the command, or give --train and --val.")
        if self.data is not None and len(self.sources) > 1:
            raise UserError("describe: give either files after the command, or --train and --val.")
        check_number("near_duplicates", self.near_duplicates, above=0, at_most=1)
        check_number("near_duplicate_prompts", self.near_duplicate_prompts, at_least=1)
        check_number("limit", self.limit, at_least=1)


def main(args: Sequence[str]) -> int:
    """Describe data, print the card and write it if there is a place for it."""
    files = list(takewhile(lambda arg: not arg.startswith("-"), args))
    positional = ["--data", str(files)] if files else []
    settings = parse_settings(DescribeSettings, "describe", [*positional, *args[len(files) :]])
    card = describe(settings)
    text = markdown(card)
    print(text)
    if settings.out is not None:
        directory = Path(settings.out)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_card(directory, card)
            (directory / "data_card.md").write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"out: cannot write to {settings.out} ({error.strerror}). Choose another place.") from error
        print(f"Written: {directory / CARD_FILE}, {directory / 'data_card.md'}")
    return 0


def describe(settings: DescribeSettings) -> dict[str, Any]:
    """The card of the files, as a dictionary.

    Raises:
        UserError: A broken row, or a kind that cannot be told.
    """
    card = DataCard(toxic=toxic_words(settings.toxic_words))
    measure = token_counter(settings.tokenizer)
    limits = settings.near_duplicates, settings.near_duplicate_prompts
    near = None if limits[0] is None else NearPrompts(limits[0], limits[1])
    for name, source in settings.sources.items():
        kind = KINDS[settings.kind or kind_of(source, name)]
        stream = RowStream(kind, source, name, settings.on_bad_row, settings.limit)
        for row in tqdm(stream, desc=name, unit=" rows", leave=False):
            prompt, responses = texts_of(row)
            card.split(name, kind).add(row, *measure(prompt, responses))
            if near is not None:
                near.add(name, prompt)
        files = [source] if isinstance(source, str) else source
        about = {"files": files, "skipped": stream.skipped, "fingerprint": stream.fingerprint}
        card.close(name, about)
        if kind is Ranking and len(card.splits[name]["labelers"]) > 1:
            card.splits[name]["agreement"] = agreement_summary(partial(_again, name, source, settings))
    if near is not None:
        card.near(near.summary())
    return card.as_dict()


def _again(name: str, source: Files, settings: DescribeSettings) -> Iterator[Ranking]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bad rows were counted the first time
        yield from RowStream(Ranking, source, name, settings.on_bad_row, settings.limit)


def kind_of(source: Files, key: str) -> str:
    """What the first row of a source looks like.

    Raises:
        UserError: It looks like none of the kinds.
    """
    first = next(iter(read_items(source, key)))
    if not isinstance(first, Record):
        raise first
    for kind, fields in _SIGNS.items():
        if any(first.has(name) for name in fields):
            return kind
    raise first.error(f"cannot tell what kind of row this is; give --kind, one of {', '.join(KINDS)}.")


class Counter:
    """Tokens of texts without any template around them; none where no tokenizer is named."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, prompt: str, responses: Sequence[str]) -> tuple[int | None, list[int]]:
        if self._tokenizer is None:
            return None, []
        prompt_ids, *others = self._tokenizer([prompt, *responses], add_special_tokens=False)["input_ids"]
        return len(prompt_ids), [len(ids) for ids in others]


def token_counter(name: str | None) -> Counter:
    """Counts the tokens of a named tokenizer.

    Raises:
        UserError: There is none of that name.
    """
    if name is None:
        return Counter(None)
    from rlhf_lightning.artefacts import open_source
    from rlhf_lightning.models.loading import load_tokenizer

    return Counter(load_tokenizer(open_source(name, "tokenizer").tokenizer, None, "tokenizer", False))
