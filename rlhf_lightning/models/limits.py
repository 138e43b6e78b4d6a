"""What a model can take in: known from its configuration, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_lightning.errors import UserError


@dataclass(frozen=True)
class ModelLimits:
    """Context length and vocabulary of a causal LM."""

    context: int | None
    """Longest sequence, in tokens; None where the model sets no limit."""
    vocabulary: int
    """Token ids are below this."""
    sampled: int = 0
    """Tokens that will be sampled after what is checked."""

    def check(self, ids: Sequence[int], where: str, shorten: str) -> None:
        """Check the token ids of a row, and its length.

        Args:
            ids: Everything the model will see of it at once.
            where: File and row.
            shorten: The configuration keys that make it shorter.

        Raises:
            UserError: Too long, or an id that the model has no embedding for.
        """
        total = len(ids) + self.sampled
        if self.context is not None and total > self.context:
            parts = f"{total} tokens" + (f" ({self.sampled} of them to be sampled)" if self.sampled else "")
            raise UserError(f"{where}: {parts}, but the model's context length is {self.context}. Lower {shorten}.")
        self.check_vocabulary(ids, where)

    def check_vocabulary(self, ids: Sequence[int], where: str) -> None:
        """Check token ids.

        Raises:
            UserError: The model has no embedding for one of them.
        """
        if ids and max(ids) >= self.vocabulary:
            raise UserError(
                f"{where}: the tokenizer gives token {max(ids)}, but the model has only {self.vocabulary} embeddings. "
                "Model and tokenizer do not belong together; repair the model directory."
            )

    def both(self, other: ModelLimits, sampled: int) -> ModelLimits:
        """Limits of two models that read the same rows, with room for `sampled` tokens."""
        contexts = [c for c in (self.context, other.context) if c is not None]
        return ModelLimits(min(contexts, default=None), min(self.vocabulary, other.vocabulary), sampled)


def load_limits(name: str, key: str, trust_remote_code: bool = False) -> ModelLimits:
    """Read a model's configuration.

    Args:
        name: Directory or Hub name.
        key: Configuration key to name in an error.
        trust_remote_code: Run code that comes with the model.

    Raises:
        UserError: There is none, or it is not that of a language model.
    """
    config = load_config(name, key, trust_remote_code)
    text = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", None)
    if vocabulary is None:
        raise UserError(f"{key}: {name!r} is a {config.model_type} model without a vocabulary; give a causal LM.")
    context = getattr(text, "max_position_embeddings", None)
    return ModelLimits(context if context and context > 0 else None, int(vocabulary))


def load_config(name: str, key: str, trust_remote_code: bool = False) -> Any:
    """A model's configuration.

    Raises:
        UserError: There is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers, huggingface_hub and json each have their own
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{key}: cannot read the configuration of {name!r}: {reason[:250]}") from error
