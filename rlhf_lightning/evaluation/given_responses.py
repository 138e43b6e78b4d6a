"""Responses from elsewhere: another system's, or people's, as a model among the others."""

from __future__ import annotations

from pathlib import Path

from rlhf_lightning.data.fields import parse_text
from rlhf_lightning.data.reading import read_records
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.generations import Generation
from rlhf_lightning.evaluation.prompts import EvaluationPrompt
from rlhf_lightning.text_reward_models import shown


def read_responses(
    path: Path, key: str, places: list[tuple[EvaluationPrompt, int]], on_missing: str
) -> tuple[list[Generation], int]:
    """The rows of a file of responses that answer the evaluation's prompts.

    A row has `response`, and `id` or `prompt` (with both, they must belong together); `sample` (from 0) where there
    are several, and `ended` (true where it is missing).

    Args:
        path: The file.
        key: Its place in the configuration.
        places: The prompts and samples to be answered.
        on_missing: "error", or "exclude".

    Returns:
        The responses, and the number of places without one.

    Raises:
        UserError: A broken row, two responses to one place, or none to some.
    """
    by_text: dict[str, str] = {}
    for prompt, _ in places:
        by_text.setdefault(prompt.text, prompt.id)
    found: dict[tuple[str, int], Generation] = {}
    texts = {prompt.id: prompt.text for prompt, _ in places}
    for record in read_records(str(path), key):
        row = _row(record, by_text, texts)
        if row is None:
            continue
        if row.place in found:
            raise record.error(f"it is a second response to prompt {row.id!r}, sample {row.sample}; remove one.")
        found[row.place] = row
    wanted = {(prompt.id, sample) for prompt, sample in places}
    missing = [f"{p.id!r} (sample {s})" for p, s in places if (p.id, s) not in found]
    if missing and (on_missing == "error" or len(missing) == len(wanted)):
        raise UserError(
            f"{key}: {path} has no response to {len(missing)} of {len(wanted)} prompts and samples, the first "
            f"{missing[0]}. Add them, or leave those prompts out for this model with `on_missing: exclude`."
        )
    return [row for place, row in found.items() if place in wanted], len(missing)


def _row(record: Record, by_text: dict[str, str], texts: dict[str, str]) -> Generation | None:
    sample, ended = record.fields.get("sample", 0), record.fields.get("ended", True)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise record.error(f"`sample` is {sample!r}; it must be a whole number from 0 on.")
    if not isinstance(ended, bool):
        raise record.error(f"`ended` is {ended!r}; it must be true or false.")
    response = record.require("response")
    if not isinstance(response, str):
        raise record.error("`response` must be a text.")
    if record.has("id"):
        name = str(record.fields["id"])
    else:
        name = by_text.get(parse_text(record, "prompt", record.require("prompt")), "")
    if name not in texts:
        return None
    if record.has("id") and record.has("prompt"):
        text = parse_text(record, "prompt", record.fields["prompt"])
        if text != texts[name]:
            raise record.error(
                f"it answers {shown(text)}, but the prompt with the id {name!r} is {shown(texts[name])}. Give the "
                "responses to these prompts, or take `id` out of the rows so that they are found by `prompt`."
            )
    return Generation(name, sample, texts[name], response.strip(), ended, 0, None)
