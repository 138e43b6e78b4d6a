"""A model whose answers are given, to see what tasks ask and what they make of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlhf_lightning.evaluation.language_model import Completion, LanguageModel, Likelihood


class ScriptedModel(LanguageModel):
    """Answers a prompt by a function of it, and finds a text as likely as a function of it says."""

    def __init__(
        self, write: Callable[[str], str] | None = None, logprob: Callable[[str, str], float] | None = None
    ) -> None:
        self.name, self.prompts = "scripted", list[str]()
        self._write, self._logprob = write, logprob
        self.asked: list[dict[str, Any]] = []

    def identity(self) -> dict[str, str]:
        return {"weights": "scripted"}

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = ("\n",),
        chat: bool = False,
        seed: int = 0,
        purpose: str = "generate",
        rows: Sequence[int] | None = None,
    ) -> list[Completion]:
        assert self._write
        self.prompts += prompts
        self.asked.append({"temperature": temperature, "stop": tuple(stop), "chat": chat, "rows": list(rows or [])})
        return [Completion(self._write(p), 1, True, False) for p in prompts]

    def loglikelihood(
        self, pairs: Sequence[tuple[str, str]], chat: bool = False, with_greedy: bool = False
    ) -> list[Likelihood]:
        assert self._logprob
        self.prompts += [context for context, _ in pairs]
        return [Likelihood(self._logprob(c, t), len(t.split())) for c, t in pairs]
