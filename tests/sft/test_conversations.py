"""Conversations of several turns under the limit of tokens."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_lightning.models import tiny
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.sft.data import DemonstrationDataModule


@pytest.mark.parametrize(("limit", "cut", "lost"), [(1000, 0, 0), (9, 1, 1), (60, 1, 1), (70, 1, 0)])
def test_answers_behind_the_limit_are_counted(
    jsonl: Callable[..., str], limit: int, cut: int, lost: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte is a token: "ok" and EOS, 40 and some of the question, and an answer from about the 55th on."""
    turns = [("user", "Hi"), ("assistant", "ok"), ("user", "?" * 50), ("assistant", "the answer that matters")]
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    data = DemonstrationDataModule(jsonl([chat, {"prompt": "Hi", "response": "ok"}]), max_response_tokens=limit)
    template = PromptTemplate(tiny.tokenizer())
    module: Any = SimpleNamespace(template=template, seed=0, limits=SimpleNamespace(check=lambda *_: None))
    data.trainer = SimpleNamespace(lightning_module=module)  # type: ignore[assignment]
    data.setup("fit")
    said = capsys.readouterr().out
    assert ("cut 1 responses" in said) == bool(cut)
    assert ("takes away 1 later answers" in said) == bool(lost)
    answers = template.tokenizer.decode(data.items["train"][0][0].ids)
    assert ("the ans" in answers) == (not lost)
    assert data.items["train"][0][0].is_response.count(True) > 0
