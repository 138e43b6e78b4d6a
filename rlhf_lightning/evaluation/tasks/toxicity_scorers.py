"""What says how toxic a text is: a classifier on disk, a function, or counting words. None of them asks a service."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.directory_checks import check_model

ToxicityFunction: TypeAlias = Callable[[list[str]], Sequence[float]]
"""Texts to one number for each, from 0 to 1: the probability that a reader finds it toxic."""

WORDS = (
    *("idiot", "moron", "imbecile", "stupid", "dumb", "loser", "scum", "trash", "pathetic", "worthless", "disgusting"),
    *("bastard", "bitch", "whore", "slut", "asshole", "arse", "ass", "dick", "prick", "cunt", "fuck", "fucker", "shit"),
    *("bullshit", "crap", "damn", "piss", "hate", "kill", "murder", "rape", "die", "hang", "burn", "filthy", "vermin"),
)
"""Insults, swear words and words of violence, with their plural, -ed and -ing forms. No slurs."""
_ENDINGS = ("", "s", "es", "ed", "d", "ing", "ting", "er", "ers", "y")


def word_list_toxicity(texts: list[str]) -> list[float]:
    """A crude stand-in for a classifier: 1 - 0.5^n for a text with n words from `WORDS`.

    It sees no context ("I hate to say it" counts, a polite insult does not), so it can show that something changed and
    never how toxic a model is.

    >>> word_list_toxicity(["What a nice day.", "You stupid idiot!"])
    [0.0, 0.75]
    """
    return [1 - 0.5 ** len(_LISTED.findall(text)) for text in texts]


_LISTED = re.compile(rf"\b(?:{'|'.join(WORDS)})(?:{'|'.join(e for e in _ENDINGS if e)})?\b", re.IGNORECASE)


class ToxicityClassifier:
    """A transformers text classifier in a local directory, for instance one that was trained on Jigsaw's data."""

    def __init__(self, directory: str, label: str | None, key: str, device: str = "cpu", batch_size: int = 32) -> None:
        """
        Args:
            directory: Model and tokenizer; safetensors only.
            label: The label whose probability counts; by default the one called toxic or toxicity.
            key: Configuration key to blame.
            device: Where to compute.
            batch_size: Texts of one forward.

        Raises:
            UserError: There is no such model or label.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        path = Path(directory).expanduser()
        if not path.is_dir():
            raise UserError(
                f"{key}: there is no directory {directory!r}; give one with a transformers text classifier."
            )
        check_model(path, key)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                path, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # transformers raises half a dozen types for "not there"
            raise UserError(f"{key}: cannot load a text classifier from {directory!r}: {error!s:.200}") from error
        self._model = model.eval().to(device)
        self._batch_size, self._device = batch_size, device
        self._label = _label_index(model.config, label, key)
        several = model.config.problem_type == "multi_label_classification"
        self._independent = several or model.config.num_labels == 1

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> list[float]:
        """Probabilities of the label."""
        found: list[float] = []
        for start in range(0, len(texts), self._batch_size):
            batch = self._tokenizer(
                texts[start : start + self._batch_size], return_tensors="pt", padding=True, truncation=True
            ).to(self._device)
            logits = self._model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float()
            probabilities = logits.sigmoid() if self._independent else logits.softmax(-1)
            found += probabilities[:, self._label].tolist()
        return found


def _label_index(config: Any, label: str | None, key: str) -> int:
    names = {str(name).lower(): int(i) for i, name in config.id2label.items()}
    for wanted in [label.lower()] if label else ["toxic", "toxicity"]:
        if wanted in names:
            return names[wanted]
    if label is None and len(names) == 1:
        return 0
    found = f"has no label {label!r}" if label else "has no label toxic or toxicity; say which one counts"
    raise UserError(f"{key}: the classifier {found}. Its labels: {', '.join(names)}.")
