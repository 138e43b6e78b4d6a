"""The one place where prompts and responses become token ids, so that all stages see the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from rlhf_lightning.data.kinds import Message, PromptLike
from rlhf_lightning.errors import UserError

_TEMPLATE_KEY = "model.init_args.chat_template"
_PROBE = "What does a cat eat?"


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
            UserError: No EOS token, `prompt_format` without "{prompt}", or a chat template that leaves out prompts.
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
        if tokenizer.chat_template is not None and _PROBE not in self._render((Message("user", _PROBE),)):
            raise UserError(f"{_TEMPLATE_KEY}: the chat template leaves the prompt out; it must write every message.")

    def encode_prompt(self, prompt: PromptLike) -> list[int]:
        """Token ids of a prompt up to the point where the response begins.

        Raises:
            UserError: The chat template does not take it.
        """
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(self.prompt_format.replace("{prompt}", plain_text(prompt)))["input_ids"])
        return self._encode_text(self._render(as_messages(prompt)))

    def encode_response(self, response: str) -> list[int]:
        """Token ids of a whole response, EOS included."""
        return [*self._encode_text(response), self.eos_id]

    def encode_document(self, text: str) -> list[int]:
        """Token ids of pretraining text, which no template belongs to, and EOS."""
        return [*self._encode_text(text), self.eos_id]

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

    def _render(self, messages: Sequence[Message]) -> str:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        try:  # in jinja's immutable sandbox: a template cannot reach files or Python objects
            return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            # Broken syntax, an undefined name, or the template's own refusal, e.g. of a system message.
            roles = ", ".join(m.role for m in messages)
            reason = str(error).split("\n")[0][:150]
            raise UserError(
                f"{_TEMPLATE_KEY}: the chat template cannot render a conversation of {roles} ({reason}). "
                "Correct the template, or change the conversation."
            ) from error

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
