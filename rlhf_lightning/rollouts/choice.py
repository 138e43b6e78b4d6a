"""From `sampling.engine` to the engine."""

from __future__ import annotations

from rlhf_lightning.rollouts.engine import RolloutEngine
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.rollouts.transformers_engine import TransformersEngine


def build_engine(settings: SamplingSettings) -> RolloutEngine:
    """The engine that the settings name.

    Raises:
        UserError: It is not installed.
    """
    if settings.engine == "vllm":
        from rlhf_lightning.rollouts.vllm_engine import VllmEngine

        return VllmEngine(settings.vllm)
    return TransformersEngine() if settings.engine == "transformers" else NativeEngine()
