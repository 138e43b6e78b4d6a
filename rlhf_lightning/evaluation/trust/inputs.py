"""From files and a reward artefact to what the report is made of; texts are checked before any weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import torch
from tqdm.auto import tqdm

from rlhf_lightning.artefacts import Source
from rlhf_lightning.data.kinds import PromptLike, Ranking
from rlhf_lightning.data.loading import load
from rlhf_lightning.data.openings import Openings
from rlhf_lightning.data.reading import read_records
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.trust.report import PolicyOutputs
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.ppo.prompts import PromptRow
from rlhf_lightning.prompt_template import plain_text
from rlhf_lightning.text_reward_models import RewardError, RewardReader, TextRewardModel

Scored = tuple[PromptLike, str, bool]
"""Prompt, response, and whether it ended with EOS."""
_AT_ONCE = 512


def training_files(source: Source) -> list[str] | None:
    """The rankings that a reward artefact says it was trained on; None where it does not say or they are gone."""
    trained: Any = source.info.data.get("train") if source.info else None
    files = trained.get("files") if isinstance(trained, dict) else None
    return [str(f) for f in files] if isinstance(files, list) and files else None


def find_training(source: Source, given: str | list[str] | None, key: str) -> tuple[list[Ranking] | None, str]:
    """The training rankings, and what to say about them.

    Args:
        source: The reward artefact.
        given: Files that were named; an error if they cannot be read. Without, the artefact's own are tried.
        key: Configuration key of `given`.
    """
    if given is not None:
        return load(Ranking, given, key).rows, "as given"
    files = training_files(source)
    if files is None:
        return None, "the artefact's stage.json names no training files"
    try:
        loaded = load(Ranking, files, key, on_bad_row="skip")
    except UserError as error:
        return None, f"the artefact's training files cannot be read any more ({error})"
    trained: Any = source.info.data.get("train", {}) if source.info else {}
    changed = loaded.fingerprint != trained.get("fingerprint") and not trained.get("skipped")
    return loaded.rows, "from the artefact's stage.json" + (
        ", but they hold OTHER rows than it read (changed since, or read with a limit)" if changed else ""
    )


def ended_flags(row: Ranking) -> list[bool]:
    """Which responses ended by themselves; all, where the row does not say. As training reads them."""
    ended: Any = row.meta.get("ended")
    if not isinstance(ended, list) or len(ended) != len(row.responses):
        return [True] * len(row.responses)
    return [one is not False for one in ended]


def response_texts(rows: Sequence[Ranking]) -> list[Scored]:
    """Every response of rankings, in order."""
    return [(row.prompt, text, end) for row in rows for text, end in zip(row.responses, ended_flags(row), strict=True)]


def sample_rankings(rows: Sequence[Ranking], responses: int, seed: int) -> list[Ranking]:
    """Random rankings with about so many responses in all, enough for a distribution of scores."""
    order, kept, count = list(range(len(rows))), [], 0
    Random(seed).shuffle(order)
    for i in order:
        if count >= responses:
            break
        kept.append(i)
        count += len(rows[i].responses)
    return [rows[i] for i in sorted(kept)]


def check_texts(reader: RewardReader, texts: Sequence[Scored]) -> None:
    """
    Raises:
        UserError: A text that the model cannot read.
    """
    for prompt, response, ended in dict.fromkeys(texts):
        try:
            reader.sequence(prompt, response, ended)
        except RewardError as error:
            raise UserError(f"{error} Or leave the row out.") from error


def build_scorer(
    reader: RewardReader, dtype: torch.dtype, device: torch.device, micro_batch_tokens: int
) -> TextRewardModel:
    """The reward model with its weights."""
    model = TextRewardModel(reader, micro_batch_tokens)
    model.build(LoraSettings(), dtype, False, None)
    return model.to(device).eval()


def score_texts(model: TextRewardModel, texts: Sequence[Scored]) -> list[float]:
    """One score for each text, [N]; equal ones are scored once.

    Raises:
        UserError: A score that is not finite.
    """
    distinct = list(dict.fromkeys(texts))
    found: dict[Scored, float] = {}
    with tqdm(total=len(distinct), desc="scoring", unit="response", leave=False) as bar:
        for start in range(0, len(distinct), _AT_ONCE):
            part = distinct[start : start + _AT_ONCE]
            rows = [PromptRow(prompt) for prompt, _, _ in part]
            values = model.score(rows, [r for _, r, _ in part], [e for _, _, e in part], bar.update)
            found.update(zip(part, values, strict=True))
    for (prompt, response, _), value in found.items():
        if not math.isfinite(value):
            raise UserError(f"{model.reader.key}: scores {response[:60]!r} to {plain_text(prompt)[:60]!r} as {value}.")
    return [found[text] for text in texts]


def grouped(values: Sequence[float], rows: Sequence[Ranking]) -> list[list[float]]:
    """Flat scores as lists by ranking, [R][K]."""
    ends, at = [], 0
    for row in rows:
        ends.append(list(values[at : at + len(row.responses)]))
        at += len(row.responses)
    return ends


def read_generations(name: str, files: str, key: str, proxy: str) -> tuple[list[Scored], list[dict[str, Any]]]:
    """Outputs of a policy: rows with `prompt` and `response`; `ended`, `kl`, `gold` and a proxy score where known.

    Args:
        name: The policy.
        files: JSON lines, such as the `generations/<model>.jsonl` of the evaluate command.
        key: Configuration key of the file.
        proxy: Name of the reward in the rows' `scores`.

    Raises:
        UserError: A row lacks `prompt` or `response`, or has a number that is none.
    """
    texts: list[Scored] = []
    rows: list[dict[str, Any]] = []
    for record in read_records(files, key):
        prompt, response = record.require("prompt"), record.require("response")
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise record.error("`prompt` and `response` must be texts.")
        texts.append((prompt, response, record.fields.get("ended") is not False))
        scores = record.fields.get("scores")
        from_scores = scores if isinstance(scores, Mapping) else {}
        gold = record.fields.get("gold", from_scores.get("gold"))
        own = record.fields.get("proxy", from_scores.get(proxy) if proxy else None)
        kl = record.fields.get("kl")
        numbers = {"kl": kl, "gold": gold, "proxy": own}
        rows.append({what: _number(record, what, value) for what, value in numbers.items()})
    return texts, rows


def shared_prompts(rows: Sequence[Ranking], training: Sequence[Ranking] | None) -> int:
    """How many different prompts of held-out rankings are training prompts too."""
    ours, theirs = Openings(), Openings()
    for split, its_rows in ((ours, rows), (theirs, training or ())):
        for row in its_rows:
            split.add(row)
    return ours.shared_with(theirs)


def policy_outputs(
    name: str, texts: Sequence[Scored], rows: Sequence[dict[str, Any]], proxy: Sequence[float]
) -> PolicyOutputs:
    """Outputs with proxy scores; `kl` and `gold` count where every row has them."""
    whole = {
        what: None if any(row[what] is None for row in rows) else [float(row[what]) for row in rows]
        for what in ("kl", "gold")
    }
    prompts, responses = [plain_text(p) for p, _, _ in texts], [r for _, r, _ in texts]
    return PolicyOutputs(name, prompts, responses, list(proxy), **whole)


def _number(record: Record, what: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise record.error(f"`{what}` is {value!r}; it must be a finite number, or absent.")
    return float(value)
