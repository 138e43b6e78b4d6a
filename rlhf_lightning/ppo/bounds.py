"""The ranges of PPO's numbers, and what does not go together."""

from __future__ import annotations

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.lora import LoraSettings

_BOUNDS: dict[str, dict[str, float]] = {
    "num_minibatches": {"at_least": 1},
    "ppo_epochs": {"at_least": 1},
    "value_lr": {"at_least": 0},
    "kl_coef": {"at_least": 0},
    "value_coef": {"at_least": 0},
    "missing_eos_penalty": {"at_least": 0},
    "clip_range": {"above": 0},
    "value_clip_range": {"above": 0},
    "gamma": {"at_least": 0, "at_most": 1},
    "gae_lambda": {"at_least": 0, "at_most": 1},
}


def check_bounds(module: object) -> None:
    """Check the numbers a PPO module was given.

    Raises:
        UserError: One is out of its range.
    """
    for name, bounds in _BOUNDS.items():
        check_number(f"model.init_args.{name}", getattr(module, name), **bounds)


def check_engine(engine: str, lora: LoraSettings | None) -> None:
    """
    Raises:
        UserError: The engine takes merged weights, which a quantized base cannot give.
    """
    if engine == "vllm" and lora is not None and lora.base_bits is not None:
        raise UserError(
            "model.init_args.sampling.engine: vllm is given the policy's merged weights, and an adapter cannot be "
            f"merged into a {lora.base_bits}-bit base. Take the engine native, or set model.init_args.lora.base_bits "
            "to null."
        )
