"""Tasks of lm-eval as a section of `evaluate`: results in `results/lm_eval.json`, samples in `lm_eval/`."""

from __future__ import annotations

from typing import Any

from rlhf_lightning.evaluation.context import EvaluationContext
from rlhf_lightning.evaluation.language_model import model_identity
from rlhf_lightning.evaluation.sections import Section
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.evaluation.tasks.lm_eval_bridge import require_lm_eval, run_lm_eval
from rlhf_lightning.evaluation.tasks.section import language_model


def lm_eval(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    """Run lm-eval's tasks on every model that has weights.

    Returns:
        `models`: by name, lm-eval's own metrics by task.
    """
    asked = settings.lm_eval
    assert asked is not None
    found = {}
    for name in context.loadable:
        context.release(name)
        model = language_model(context, name)
        results = run_lm_eval(
            model, asked.tasks, context.out / "lm_eval", asked.shots, asked.limit, asked.chat, settings.seed
        )
        found[name] = {task: _numbers(metrics) for task, metrics in results.items()}
    return {"models": found}


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """What of a task's metrics is a number; lm-eval writes "N/A" for errors that it cannot estimate."""
    return {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and float(v) == float(v)}


def _check(settings: EvaluateSettings, context: EvaluationContext) -> None:
    require_lm_eval()


def _inputs(settings: EvaluateSettings, context: EvaluationContext) -> dict[str, Any]:
    models = {name: model_identity(context.fingerprints[name], context.dtype) for name in context.loadable}
    return {"lm_eval": settings.lm_eval, "models": models, "seed": settings.seed}


SECTION = Section(lm_eval, _inputs, lambda settings: settings.lm_eval is not None, _check)
