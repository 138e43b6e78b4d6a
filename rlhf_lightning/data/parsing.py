"""Records to demonstrations, prompts and pretraining text (rankings: `rankings.py`)."""

from __future__ import annotations

from rlhf_lightning.data.fields import parse_about, parse_messages, parse_prompt, parse_response, parse_text
from rlhf_lightning.data.kinds import Demonstration, Message, Prompt, Text
from rlhf_lightning.data.records import Record


def parse_demonstration(record: Record) -> Demonstration:
    """A demonstration from `prompt` and `response` (or `completion`), or from `messages`.

    Raises:
        UserError: The row is broken; see the checks of each field.
    """
    answers = [name for name in ("response", "completion", "messages") if record.has(name)]
    if len(answers) > 1:
        raise record.error(f"has both `{answers[0]}` and `{answers[1]}`; keep the one that is meant.")
    if answers == ["messages"]:
        # `prompt` may stand beside `messages` (ultrachat repeats the first turn there); it stays in `meta`.
        return Demonstration(_conversation(record), **parse_about(record, ["messages"]))
    prompt = parse_prompt(record)
    name = answers[0] if answers else "response"
    response = Message("assistant", parse_response(record, name, record.require(name), prompt))
    before = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    about = parse_about(record, ["prompt", name])
    return Demonstration((*before, response), plain_prompt=isinstance(prompt, str), **about)


def _conversation(record: Record) -> tuple[Message, ...]:
    messages = parse_messages(record, "messages", record.fields["messages"])
    if all(m.role != "assistant" for m in messages):
        raise record.error("`messages` has no assistant message, so there is nothing to learn; add the response.")
    if messages[-1].role != "assistant":
        last = messages[-1].role
        raise record.error(f"`messages` ends with the {last}; the last message must be the assistant's.")
    if messages[0].role == "assistant":
        raise record.error("`messages` begins with the assistant; the prompt is missing.")
    return messages


def parse_prompt_row(record: Record) -> Prompt:
    """A prompt from `prompt`.

    Raises:
        UserError: The row is broken; see the checks of each field.
    """
    return Prompt(parse_prompt(record), **parse_about(record, ["prompt"]))


def parse_text_row(record: Record) -> Text:
    """Pretraining text from `text`.

    Raises:
        UserError: The row is broken; see the checks of each field.
    """
    return Text(parse_text(record, "text", record.require("text")), **parse_about(record, ["text"]))
