"""The one place where prompts and responses become token ids, so that all stages see the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from rlhf_lightning.data.kinds import Message, PromptLike
from rlhf_lightning.errors import UserError


class PromptTemplate:
    """Renders prompts and responses with the tokenizer's chat template, or with `prompt_format` without one.

    A response always ends with EOS (unless it was cut), because that is how a policy says it has finished.
    The paper does not give its format (spec: "SFT packing and prompt masking" are open), so the model's own
    chat template is used: it is what the base model was trained on.
    """

    def __init__(self, tokenizer: Any, prompt_format: str = "{prompt}\n\n") -> None:
        """
        Args:
            tokenizer: A transformers tokenizer with EOS.
            prompt_format: Text around a plain prompt where the tokenizer has no chat template; must contain
                "{prompt}".

        Raises:
            UserError: No EOS token, or `prompt_format` without "{prompt}".
        """
        if tokenizer.eos_token_id is None:
            raise UserError(
                "The tokenizer has no EOS token, so a model could never say that it has finished. "
                "Use a tokenizer that defines `eos_token`."
            )
        if "{prompt}" not in prompt_format:
            raise UserError(f"model.init_args.prompt_format is {prompt_format!r}; it must contain '{{prompt}}'.")
        self.tokenizer = tokenizer
        self.prompt_format = prompt_format
        self.eos_id: int = tokenizer.eos_token_id

    def encode_prompt(self, prompt: PromptLike) -> list[int]:
        """Token ids of a prompt up to the point where the response begins.

        Raises:
            UserError: The chat template is broken, does more than a template may, or does not take these roles.
        """
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(self.prompt_format.replace("{prompt}", plain_text(prompt)))["input_ids"])
        messages = as_messages(prompt)
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:  # transformers renders in jinja's immutable sandbox: a template cannot reach files or Python objects
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            roles = ", ".join(m.role for m in messages)
            raise UserError(f"The chat template cannot render a prompt of {roles}: {error}") from error
        return self._encode_text(text)

    def encode_response(self, response: str) -> list[int]:
        """Token ids of a whole response, EOS included."""
        return [*self._encode_text(response), self.eos_id]

    def encode_conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation and, for each, whether it is part of an assistant turn (its EOS included).

        Raises:
            UserError: The chat template rewrites earlier turns, so that turns cannot be told apart.
        """
        ids: list[int] = []
        is_response: list[bool] = []
        for turn, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.encode_prompt(tuple(messages[:turn]))
            if before[: len(ids)] != ids:
                raise UserError(
                    f"The chat template renders turn {turn} in a way that changes earlier turns. "
                    "Give such conversations as one `prompt`/`response` row per assistant turn."
                )
            response = self.encode_response(message.content)
            is_response += [False] * (len(before) - len(ids)) + [True] * len(response)
            ids = before + response
        return ids, is_response

    def decode(self, response_ids: Sequence[int]) -> str:
        """Text of a response without special tokens and surrounding white space."""
        return str(self.tokenizer.decode(response_ids, skip_special_tokens=True)).strip()

    def _encode_text(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def as_messages(prompt: PromptLike) -> tuple[Message, ...]:
    """A prompt as chat messages; a string is one user message."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def plain_text(prompt: PromptLike) -> str:
    """A prompt as text, for tokenizers without a chat template and for tables."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{m.role.capitalize()}: {m.content}" for m in prompt)
