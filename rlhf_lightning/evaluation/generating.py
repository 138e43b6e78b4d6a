"""Every model answers every prompt: in batches, each on disk before the next one starts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm

from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.generations import Generation
from rlhf_lightning.evaluation.given_responses import read_responses
from rlhf_lightning.evaluation.measuring import measure_scores, measure_tokens
from rlhf_lightning.evaluation.prompts import EvaluationPrompt
from rlhf_lightning.fitting.identity import plain

Place = tuple[EvaluationPrompt, int]


def check_prompts(context: EvaluationContext) -> None:
    """See that every model can read every prompt and has room for its response.

    Raises:
        UserError: One has not; names the prompt's file and line.
    """
    limit = context.settings.sampling.max_response_tokens
    for name in context.loadable:
        reader = context.reader(name)
        limits = reader.limits.both(reader.limits, limit)
        for prompt in context.prompts:
            ids = reader.template.encode_prompt(prompt.prompt)
            where = f"models.{name}: the prompt {prompt.where}"
            limits.check(ids, where, "sampling.max_response_tokens, or shorten the prompt")


def generate_all(context: EvaluationContext) -> dict[str, dict[str, Any]]:
    """All responses, measured, on disk.

    Files are all looked at before the first model answers, so that one made with other settings costs no time.

    Returns:
        Of each model: `rows`, how many of them are `new`, `missing`, `seconds`.
    """
    there = {name: _open(context, name) for name in context.entries}
    report = {}
    for name in context.entries:
        start = time.perf_counter()
        context.release(name)
        new, missing = _complete(context, name, there[name])
        seconds = round(time.perf_counter() - start, 2)
        rows = len(context.places) - missing
        report[name] = {"rows": rows, "new": new, "missing": missing, "seconds": seconds}
    context.forget_generations()
    return report


def identity(context: EvaluationContext, name: str) -> dict[str, Any]:
    """What the responses of a model are made with."""
    s = context.settings
    about: dict[str, Any] = {"model": context.fingerprints[name], "prompts": context.data.fingerprint}
    if name not in context.loadable:
        return about
    sampling = {k: v for k, v in plain(s.sampling).items() if k != "batch_size"}
    reader = context.reader(name).template
    rendering = {"prompt_format": reader.prompt_format, "chat_template": reader.tokenizer.chat_template}
    return about | {"seed": s.seed, "precision": s.precision, "sampling": sampling} | rendering


def measured_by(context: EvaluationContext, name: str) -> dict[str, Any]:
    """What they are measured by."""
    reference = context.fingerprints[context.reference] if _comparable(context, name) else None
    return {"reference": reference, "rewards": context.reward_fingerprints}


def _open(context: EvaluationContext, name: str) -> list[Generation]:
    file = context.generation_file(name)
    return file.open(identity(context, name), measured_by(context, name), context.settings.overwrite)


def _complete(context: EvaluationContext, name: str, rows: list[Generation]) -> tuple[int, int]:
    """Measure what is there and was not, and make what is not there; the numbers of new and of missing rows."""
    file = context.generation_file(name)
    wanted = {(p.id, s) for p, s in context.places}
    if stale := [row for row in rows if row.place in wanted and not _is_measured(context, name, row)]:
        with tqdm(total=len(stale), desc=f"{name}: measuring", unit="response") as bar:
            done = [m for part in _parts(stale, context) for m in _counted(_measured(context, name, part), bar)]
        fresh = {row.place: row for row in done}
        kept = [fresh.get(row.place, row) for row in rows]
        file.replace(kept, identity(context, name), measured_by(context, name))
    have = {row.place for row in rows}
    if name not in context.loadable:
        return _import(context, name, have)
    todo = [place for place in _short_first(context, name) if (place[0].id, place[1]) not in have]
    with tqdm(total=len(wanted), initial=len(wanted) - len(todo), desc=name, unit="response", disable=not todo) as bar:
        for part in _parts(todo, context):
            file.append(_counted(_measured(context, name, _answer(context, name, part)), bar))
    return len(todo), 0


def _import(context: EvaluationContext, name: str, have: set[tuple[str, int]]) -> tuple[int, int]:
    entry = context.entries[name]
    assert entry.responses is not None
    given, missing = read_responses(entry.responses, entry.key, context.places, context.settings.on_missing)
    new = [row for row in given if row.place not in have]
    for part in _parts(new, context):
        context.generation_file(name).append(_measured(context, name, part))
    return len(new), missing


def _answer(context: EvaluationContext, name: str, places: Sequence[Place]) -> list[Generation]:
    model = context.model(name)
    prompts = [model.template.encode_prompt(prompt.prompt) for prompt, _ in places]
    seeds = [prompt.seed(context.seed, sample) for prompt, sample in places]
    sampled = model.generate(prompts, seeds, context.settings.sampling.for_engine())
    return [
        Generation(
            prompt.id, sample, prompt.text, model.template.decode(s.ids), s.ended, len(s.ids), seed, response_ids=s.ids
        )
        for (prompt, sample), seed, s in zip(places, seeds, sampled, strict=True)
    ]


def _measured(context: EvaluationContext, name: str, rows: Sequence[Generation]) -> list[Generation]:
    settings = context.settings
    with context.autocast():
        measured = measure_scores(rows, context.by_id, {n: context.reward(n) for n in context.reward_sources})
    if name not in context.loadable:
        return measured
    reference = context.model(context.reference) if _comparable(context, name) else None
    temperature, batch_tokens = settings.sampling.temperature, settings.micro_batch_tokens
    return measure_tokens(measured, context.by_id, context.model(name), reference, temperature, batch_tokens)


def _comparable(context: EvaluationContext, name: str) -> bool:
    """Whether token ids mean the same to a model and to the reference."""
    pair = {name, context.reference}
    if not pair <= set(context.loadable):
        return False
    return context.reader(name).vocabulary == context.reader(context.reference).vocabulary


def _is_measured(context: EvaluationContext, name: str, row: Generation) -> bool:
    return row.scores.keys() == context.reward_sources.keys() and (
        name not in context.loadable or row.logprob is not None
    )


def _short_first(context: EvaluationContext, name: str) -> list[Place]:
    """Prompts of similar length together, and samples of one prompt, which is then computed once."""
    template = context.reader(name).template
    lengths = {p.id: len(template.encode_prompt(p.prompt)) for p in context.prompts}
    return sorted(context.places, key=lambda place: lengths[place[0].id])


def _parts(items: Sequence[Any], context: EvaluationContext) -> Iterator[Any]:
    size = context.settings.save_every
    return (items[start : start + size] for start in range(0, len(items), size))


def _counted(rows: list[Generation], bar: Any) -> list[Generation]:
    bar.update(len(rows))
    return rows
