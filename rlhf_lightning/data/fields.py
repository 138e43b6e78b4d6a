"""Checks of single fields that all kinds of rows share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from rlhf_lightning.data.json_rows import json_type
from rlhf_lightning.data.kinds import Message, PromptLike, Role
from rlhf_lightning.data.records import Record

_ROLES: dict[object, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_ABOUT = ("id", "source", "category", "labeler", "labeler_group")


class About(TypedDict):
    """Keyword arguments of `kinds.Row`."""

    file: str
    line: int
    id: str | None
    source: str | None
    category: str | None
    labeler: str | None
    labeler_group: str | None
    flags: tuple[str, ...]
    meta: dict[str, object]


def parse_about(record: Record, used: Iterable[str]) -> About:
    """The optional fields; what is neither optional nor `used` goes to `meta`.

    Raises:
        UserError: One of them has the wrong type.
    """
    known = {*used, *_ABOUT, "flags"}
    return {
        "file": record.file,
        "line": record.line,
        "id": _label(record, "id"),
        "source": _label(record, "source"),
        "category": _label(record, "category"),
        "labeler": _label(record, "labeler"),
        "labeler_group": _label(record, "labeler_group"),
        "flags": _flags(record),
        "meta": {name: value for name, value in record.fields.items() if name not in known and value is not None},
    }


def _label(record: Record, name: str) -> str | None:
    value = record.fields.get(name)
    if value is None or value == "":  # an empty CSV cell
        return None
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise record.error(f"`{name}` is {json_type(value)}; it must be a string or a whole number.")


def _flags(record: Record) -> tuple[str, ...]:
    value = record.fields.get("flags")
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if isinstance(value, dict) and all(on is None or isinstance(on, bool) for on in value.values()):
        return tuple(name for name, on in value.items() if on)
    raise record.error('`flags` must be a list of names such as ["toxic"], or an object of true and false.')


def parse_text(record: Record, name: str, value: object) -> str:
    """A string with something in it.

    Args:
        record: Row to blame.
        name: Field to blame, e.g. "responses[2]".
        value: What the field holds.

    Raises:
        UserError: No string, only white space, or not valid Unicode.
    """
    text = _string(record, name, value)
    if not text.strip():
        raise record.error(f"`{name}` is empty; write its text or delete the row.")
    return text


def _string(record: Record, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise record.error(f"`{name}` is {json_type(value)}; it must be a string.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can write half of a character, and tokenizers fail on it
        half = f"\\u{ord(value[error.start]):04x}"
        raise record.error(f"`{name}` holds half of a character ({half}); repair the text.") from error
    return value


def parse_messages(record: Record, name: str, value: object) -> tuple[Message, ...]:
    """A chat, not empty.

    Raises:
        UserError: No list, an unknown role, or a content that is no text. Only system messages may be empty.
    """
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else json_type(value)
        raise record.error(f'`{name}` is {what}; it must be a list of {{"role": ..., "content": ...}}.')
    return tuple(_message(record, f"{name}[{i}]", item) for i, item in enumerate(value))


def _message(record: Record, name: str, value: object) -> Message:
    if not isinstance(value, dict):
        raise record.error(f'`{name}` is {json_type(value)}; it must be {{"role": ..., "content": ...}}.')
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        found = f"is {role!r:.40}" if "role" in value else "is missing"
        raise record.error(f"`{name}.role` {found}; it must be system, user or assistant.")
    if "content" not in value:
        raise record.error(f"`{name}.content` is missing; every message needs a role and a content.")
    check = _string if role == "system" else parse_text
    return Message(_ROLES[role], check(record, f"{name}.content", value["content"]))


def parse_prompt(record: Record, name: str = "prompt") -> PromptLike:
    """A prompt: a string, or a chat that the assistant is to answer.

    Raises:
        UserError: Missing, empty, of a wrong type, or ending with the assistant.
    """
    value = record.require(name)
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise record.error(f"`{name}` is {json_type(value)}; it must be a string or a list of messages.")
        return parse_text(record, name, value)
    messages = parse_messages(record, name, value)
    if messages[-1].role == "assistant":
        raise record.error(f"`{name}` ends with an assistant message; a prompt ends before the response.")
    return messages


def parse_response(record: Record, name: str, value: object, prompt: PromptLike = ()) -> str:
    """A response: a string, or one assistant message in a list, perhaps after the prompt's messages.

    Raises:
        UserError: Empty, of a wrong type, or more than one message.
    """
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise record.error(f"`{name}` is {json_type(value)}; it must be a string or one assistant message.")
        return parse_text(record, name, value)
    messages = parse_messages(record, name, value)
    before = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if len(messages) > 1 and messages[: len(before)] == before:
        messages = messages[len(before) :]
    if len(messages) != 1 or messages[0].role != "assistant":
        roles = ", ".join(m.role for m in messages) or "nothing"
        raise record.error(f"`{name}` has {roles} after the prompt; it must be exactly one assistant message.")
    return messages[0].content
