"""Responses on disk: one JSON line each, appended batch by batch, and what they were made with beside them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.identity import differences
from rlhf_lightning.whole_files import write_json, write_whole


@dataclass(frozen=True)
class Generation:
    """One response of one model; a row of `generations/<model>.jsonl`."""

    id: str
    """Of the prompt."""
    sample: int
    """From 0."""
    prompt: str
    """As text."""
    response: str
    """Without EOS and surrounding white space."""
    ended: bool
    """It finished with EOS within the limit."""
    tokens: int
    """Of the response, EOS included; of a response from elsewhere 0."""
    seed: int | None
    """Its random numbers'; None for a response from elsewhere."""
    response_ids: list[int] = field(default_factory=list)
    """Token ids, EOS included."""
    kl: float | None = None
    """log p_model - log p_reference summed over the response, nats; None where their token ids differ in meaning."""
    entropy: float | None = None
    """Mean over the response's tokens of the entropy of the next token's distribution, nats."""
    logprob: float | None = None
    """log p_model of the response, nats."""
    scores: dict[str, float] = field(default_factory=dict)
    """By name of the reward."""

    @property
    def place(self) -> tuple[str, int]:
        """What tells it apart among the responses of a model."""
        return self.id, self.sample


class GenerationFile:
    """The responses of one model, and what they were made with and measured by."""

    def __init__(self, directory: Path, model: str) -> None:
        """
        Args:
            directory: `generations/`.
            model: Name of the model.
        """
        self.path = directory / f"{model}.jsonl"
        self.about = directory / f"{model}.json"
        self.model = model

    def open(self, identity: Mapping[str, Any], measured: Mapping[str, Any], overwrite: bool) -> list[Generation]:
        """The responses that are there already, ready to be appended to.

        A line that was cut off by a kill is removed. Responses that were measured by something else come back
        without measurements.

        Args:
            identity: What responses are made with.
            measured: What they are measured by.
            overwrite: Start again if they were made with something else.

        Raises:
            UserError: They were made with something else, or a row is damaged.
        """
        # As JSON gives it back: tuples are lists there.
        identity, measured = json.loads(json.dumps(identity)), json.loads(json.dumps(measured))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.about.is_file():
            self._require_no_strangers(overwrite)
            self.path.unlink(missing_ok=True)
            write_json(self.about, {"identity": identity, "measured": measured}, indent=2)
            return []
        then = _read(self.about)
        if different := differences(then.get("identity", {}), identity):
            if not overwrite:
                raise UserError(
                    f"{self.path} holds responses that were made otherwise: {'; '.join(different[:3])}. Choose another "
                    "`out`, go back to those settings, or replace them with `--overwrite true`."
                )
            self.about.unlink()
            self.path.unlink(missing_ok=True)
            return self.open(identity, measured, overwrite=False)
        self._drop_torn_line()
        rows = list(self.rows())
        if then.get("measured") == measured:
            return rows
        return [replace(row, kl=None, entropy=None, logprob=None, scores={}) for row in rows]

    def append(self, rows: Sequence[Generation]) -> None:
        """Add rows; they are on disk when this returns."""
        with self.path.open("ab") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())

    def replace(self, rows: Sequence[Generation], identity: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
        """Put other rows in the place of all of them, at once."""
        write_whole(self.path, _lines(rows))
        write_json(self.about, {"identity": identity, "measured": measured}, indent=2)

    def rows(self) -> Iterator[Generation]:
        """
        Raises:
            UserError: A row is damaged.
        """
        if not self.path.is_file():
            return
        known = set(Generation.__dataclass_fields__)
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    values = json.loads(line)
                    row = Generation(**{k: v for k, v in values.items() if k in known})
                except (ValueError, TypeError, AttributeError) as error:
                    raise UserError(
                        f"{self.path}:{number}: not a row that this project wrote ({error}). Remove the line, and the "
                        "same command makes it again."
                    ) from error
                yield row

    def digest(self) -> str:
        """SHA-256 of the rows."""
        return hashlib.sha256(self.path.read_bytes() if self.path.is_file() else b"").hexdigest()

    def _require_no_strangers(self, overwrite: bool) -> None:
        if self.path.is_file() and self.path.stat().st_size and not overwrite:
            raise UserError(
                f"{self.path} is there, but not {self.about.name} beside it, which says how it was made. Choose "
                "another `out`, or replace it with `--overwrite true`."
            )

    def _drop_torn_line(self) -> None:
        """What a kill left of a line that it cut off is made again."""
        if not self.path.is_file():
            return
        with self.path.open("r+b") as file:
            data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                file.truncate(whole)


def _lines(rows: Sequence[Generation]) -> bytes:
    for row in rows:
        numbers = {"kl": row.kl, "entropy": row.entropy, "logprob": row.logprob, **row.scores}
        for name, number in numbers.items():
            if number is not None and not math.isfinite(number):
                raise UserError(
                    f"The {name} of a response to the prompt {row.id!r} is {number}: the model, the reference or the "
                    "reward model computes no finite numbers. Try `precision: 32-true`, or look at its weights."
                )
    return "".join(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Remove it and its `.jsonl`, or give `--overwrite true`."
        ) from error
    return content
