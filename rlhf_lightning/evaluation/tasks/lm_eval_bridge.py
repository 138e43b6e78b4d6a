"""All tasks of lm-eval (EleutherAI's lm-evaluation-harness) for our models: `pip install -e '.[lm-eval]'`.

Only the model's side is here. What a task is, where its data comes from (the Hub, as a rule) and how it is counted is
lm-eval's business; so are its intervals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.language_model import LanguageModel

_LONGEST = 256
"""Tokens of an answer where a task does not say, as for lm-eval's own models."""


@dataclass(frozen=True)
class LmEvalSettings:
    """Which tasks of lm-eval to run.

    Args:
        tasks: Their names, as `lm_eval --tasks list` shows them. lm-eval fetches their data from the Hub.
        shots: Examples in front of each question; by default as the task says.
        limit: Take the first so many rows of each only.
        chat: Prompts are messages to the assistant.
    """

    tasks: list[str]
    shots: int | None = None
    limit: int | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        check_number("lm_eval.shots", self.shots, at_least=0)
        check_number("lm_eval.limit", self.limit, at_least=1)
        if not self.tasks:
            raise UserError("lm_eval.tasks: is empty; name at least one, such as `hellaswag`.")


def lm_eval_model(model: LanguageModel, chat: bool = False, seed: int = 1) -> Any:
    """An `lm_eval.api.model.LM` that asks a model of ours.

    Args:
        model: The model.
        chat: Prompts are messages to the assistant.
        seed: Seed of tasks that sample.

    Raises:
        UserError: lm-eval is not installed.
    """
    require_lm_eval()
    base = _require("lm_eval.api.model").LM

    class BridgedModel(base):  # type: ignore[misc,valid-type]
        """Answers lm-eval's three kinds of requests, whose arguments are in `request.args`."""

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """Log-probability of a continuation, and whether it is the greedy one, for (context, continuation)."""
            found = model.loglikelihood([request.args for request in requests], chat, with_greedy=True)
            return [(f.logprob, bool(f.greedy)) for f in found]

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """Log-probability of a whole text."""
            return [f.logprob for f in model.text_nll([request.args[0] for request in requests])]

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """A continuation, up to the first of some strings, for (context, settings)."""
            groups: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
            texts: dict[int, str] = {}
            for numbers in groups.values():
                prompts = [requests[n].args[0] for n in numbers]
                stop, max_tokens, temperature = _decoding(requests[numbers[0]].args[1])
                found = model.generate(prompts, max_tokens, temperature, stop, chat, seed, "lm-eval", numbers)
                texts.update({n: completion.raw for n, completion in zip(numbers, found, strict=True)})
            return [texts[n] for n in range(len(requests))]

    return BridgedModel()


def run_lm_eval(
    model: LanguageModel,
    tasks: Sequence[Any],
    directory: Path | str,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    seed: int = 1,
) -> dict[str, Any]:
    """Run tasks of lm-eval on a model.

    Args:
        model: The model.
        tasks: Their names, or lm-eval's task objects.
        directory: `<directory>/<model>/lm_eval.json` gets the results and every sample.
        shots: Examples in front of each question; by default as the task says.
        limit: Take the first so many rows only.
        chat: Prompts are messages to the assistant.
        seed: Seed of samples and examples.

    Returns:
        lm-eval's metrics by task.

    Raises:
        UserError: lm-eval is not installed, or does not know a task.
    """
    require_lm_eval()
    evaluate = _require("lm_eval").simple_evaluate
    path = Path(directory) / model.name / "lm_eval.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    bridged = lm_eval_model(model, chat, seed)
    try:
        found = evaluate(
            model=bridged, tasks=list(tasks), num_fewshot=shots, limit=limit, random_seed=seed, fewshot_random_seed=seed
        )
    except (KeyError, ValueError, ConnectionError, FileNotFoundError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"lm_eval: lm-eval could not run {list(tasks)}: {reason:.300}") from error
    kept = {name: found.get(name) for name in ("results", "versions", "n-shot", "configs", "samples")}
    path.write_text(json.dumps(kept, indent=1, default=str) + "\n")
    results: dict[str, Any] = found["results"]
    return results


def require_lm_eval() -> None:
    """
    Raises:
        UserError: lm-eval is not installed.
    """
    _require("lm_eval")
    _require("lm_eval.api.model")


def _decoding(settings: dict[str, Any]) -> tuple[list[str], int, float]:
    """Stop strings, length limit and temperature from a request's settings."""
    until = settings.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    temperature = float(settings.get("temperature") or 0.0)
    if not settings.get("do_sample", temperature > 0):
        temperature = 0.0
    return stop, int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or _LONGEST), temperature


def _require(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"lm_eval: this needs lm-eval, which is not installed ({error}). Install it: pip install -e '.[lm-eval]'."
        ) from error
