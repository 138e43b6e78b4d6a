"""What the names in `models` and `reward` stand for, found out before anything heavy is loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rlhf_lightning.artefacts import Source, open_source, source_fingerprint
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.evaluated_model import vocabulary_fingerprint
from rlhf_lightning.models.limits import ModelLimits, load_limits
from rlhf_lightning.models.loading import load_tokenizer
from rlhf_lightning.prompt_template import PromptTemplate

RESPONSE_FILES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class ModelEntry:
    """A model as the settings name it; either `source` or `responses` is there."""

    name: str
    given: str
    """What the user wrote."""
    source: Source | None
    responses: Path | None
    """A file of responses from elsewhere."""

    @property
    def key(self) -> str:
        """For messages."""
        return f"models.{self.name}"

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights, or of the file."""
        if self.source is None:
            assert self.responses is not None
            return hashlib.sha256(self.responses.read_bytes()).hexdigest()
        return source_fingerprint(self.source)

    @property
    def stage(self) -> str | None:
        """sft, ppo; None for a model that is no artefact."""
        return self.source.info.stage if self.source and self.source.info else None

    def trained_against(self, reward: Source) -> bool | None:
        """Whether its rewards in training were this reward model's; None where its artefact does not say."""
        info = self.source.info if self.source else None
        if info is None or info.stage != "ppo":
            return False
        rewards = [v for k, v in info.sources.items() if "reward_from" in k]
        return source_fingerprint(reward) in rewards if info.sources else None


def open_models(models: dict[str, str]) -> dict[str, ModelEntry]:
    """
    Raises:
        UserError: A source that is not there, or a reward model.
    """
    return {name: _open(name, given) for name, given in models.items()}


def _open(name: str, given: str) -> ModelEntry:
    key = f"models.{name}"
    if given.endswith(RESPONSE_FILES):
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"{key}: there is no file of responses at {given!r}.")
        return ModelEntry(name, given, None, path)
    source = open_source(given, key)
    if source.is_reward_model:
        raise UserError(f"{key}: {given!r} is a reward model, which does not answer. Give it as `reward`.")
    return ModelEntry(name, given, source, None)


def open_rewards(rewards: dict[str, str]) -> dict[str, Source]:
    """
    Raises:
        UserError: One is no reward artefact.
    """
    key = "reward" if set(rewards) == {"reward"} else "reward.{}"
    return {name: open_source(given, key.format(name), ("reward",)) for name, given in rewards.items()}


class Reader:
    """A model's tokenizer and template, and what it can take in."""

    def __init__(self, entry: ModelEntry, prompt_format: str | None, chat_template: str | None, trust: bool) -> None:
        """
        Args:
            entry: The model.
            prompt_format: In place of the artefact's, where there is no chat template.
            chat_template: In place of the tokenizer's.
            trust: Run code that comes with the model.

        Raises:
            UserError: No tokenizer, or one that cannot say where a response ends.
        """
        source = entry.source
        assert source is not None
        tokenizer = load_tokenizer(source.tokenizer, None, entry.key, trust, need_pad=False)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        own = source.info.prompt_format if source.info else "{prompt}\n\n"
        self.template = PromptTemplate(tokenizer, own if prompt_format is None else prompt_format)
        self.limits: ModelLimits = load_limits(source.model, entry.key, trust)
        self.vocabulary = vocabulary_fingerprint(tokenizer)
