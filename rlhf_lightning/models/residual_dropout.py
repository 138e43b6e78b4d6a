"""Dropout on what layers add to the residual stream, where an architecture has it (C.1: 0.2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.limits import load_config

KEY = "model.init_args.residual_dropout"
_FIELDS = ("resid_pdrop", "resid_dropout", "residual_dropout", "hidden_dropout")
"""GPT-2, GPT-J, Phi; GPT-Neo; Starcoder2, Seed-OSS; GPT-NeoX, Bloom, Falcon, StableLM, Persimmon."""
_OWN_NAMES = {"opt": "dropout", "xglm": "dropout"}
_UNREAD = {"mpt", "nemotron_h"}
"""Their configurations have such a field, and their models do not read it."""


@dataclass(frozen=True)
class ResidualDropout:
    """A field of a model's configuration, and what it is while the model is trained."""

    field: str
    value: float
    own: float
    """What it is in the model's own configuration."""

    @property
    def options(self) -> dict[str, float]:
        """For `load_causal_lm`."""
        return {self.field: self.value}

    @contextmanager
    def put_back(self, config: Any) -> Iterator[None]:
        """Run a block with the model's own number in its configuration, so that no later stage inherits ours."""
        setattr(config, self.field, self.own)
        try:
            yield
        finally:
            setattr(config, self.field, self.value)


def residual_dropout(
    value: float | None, model: str, key: str, trust_remote_code: bool = False
) -> ResidualDropout | None:
    """Find where an architecture keeps its residual dropout.

    Args:
        value: Probability; None leaves everything as it is.
        model: Directory or Hub name.
        key: Configuration key that named the model.
        trust_remote_code: Run code that comes with the model.

    Returns:
        None where nothing is to be changed.

    Raises:
        UserError: A probability out of range, or other than 0 for an architecture without residual dropout.
    """
    check_number(KEY, value, at_least=0, below=1)
    if value is None:
        return None
    config = load_config(model, key, trust_remote_code)
    kind = str(config.model_type)
    for field in (_OWN_NAMES[kind],) if kind in _OWN_NAMES else _FIELDS:
        if hasattr(config, field) and kind not in _UNREAD:
            return ResidualDropout(field, value, getattr(config, field))
    if value == 0:
        return None
    raise UserError(
        f"{KEY} is {value:g}, but a model of type {kind!r} ({key}) has no residual dropout to set. Leave it out, or "
        "use model.init_args.lora.dropout."
    )
