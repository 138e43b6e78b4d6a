"""Prompt formats, chat templates and PAD tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.bad_inputs.refusal import Refusal

TEMPLATES: list[tuple[str, str, list[str]]] = [
    ("syntax", "{% for m in %}{% endfor %}", ["cannot render", "Expected an expression", "Correct the template"]),
    ("open block", "{% for m in messages %}{{ m['content'] }}", ["cannot render", "end"]),
    ("undefined", "{{ message.content.strip() }}", ["cannot render", "'message' is undefined"]),
    ("not a call", "{{ messages() }}", ["cannot render", "not callable"]),
    ("division", "{{ 1 / 0 }}", ["cannot render", "division by zero"]),
    ("refuses users", "{{ raise_exception('no users here') }}", ["cannot render", "no users here"]),
    ("constant", "Hello", ["leaves the prompt out", "every message"]),
    ("empty", "", ["leaves the prompt out"]),
    ("roles only", "{% for m in messages %}{{ m['role'] }}{% endfor %}", ["leaves the prompt out"]),
]
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m['content'] }}{% endfor %}"
)
FORGETFUL = "{{ messages | length }}{{ messages[-1]['content'] }}"


@pytest.mark.parametrize("stage", ["sft", "reward"])
@pytest.mark.parametrize(("template", "parts"), [pytest.param(*c[1:], id=c[0]) for c in TEMPLATES])
def test_chat_template(refused: Refusal, stage: str, template: str, parts: list[str]) -> None:
    args = ("--model.init_args.chat_template", template)
    refused(stage, *args, parts=["model.init_args.chat_template", *parts])


def test_a_row_that_the_template_refuses_is_named(refused: Refusal, jsonl: Callable[..., str]) -> None:
    chat: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    path = jsonl([{"prompt": "Hi.", "response": "Ho."}, {"prompt": chat, "response": "Ho."}])
    args = ("--data.init_args.train", path, "--model.init_args.chat_template", STRICT)
    refused("sft", *args, parts=[f"{path}:2", "chat_template", "system, user", "no system role"])


def test_a_row_whose_turns_the_template_rewrites_is_named(refused: Refusal, jsonl: Callable[..., str]) -> None:
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    path = jsonl([{"messages": [*turns, {"role": "assistant", "content": "d"}]}])
    args = ("--data.init_args.train", path, "--model.init_args.chat_template", FORGETFUL)
    refused("sft", *args, parts=[f"{path}:1", "changes earlier turns", "one `prompt`/`response` row"])


@pytest.mark.parametrize("text", ["hello", "", "{promt}", "{ prompt }"])
def test_prompt_format(refused: Refusal, text: str) -> None:
    parts = [f"model.init_args.prompt_format is {text!r}", "must contain '{prompt}'"]
    refused("sft", "--model.init_args.prompt_format", text, parts=parts)


def test_pad_token_that_does_not_exist(refused: Refusal) -> None:
    parts = ["model.init_args.pad_token", "'<nope>' is not in the vocabulary", "such as ['<|pad|>']"]
    refused("sft", "--model.init_args.pad_token", "<nope>", parts=parts)
