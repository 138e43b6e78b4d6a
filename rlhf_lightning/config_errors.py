"""Turns a parser's report into one line that names the key."""

from __future__ import annotations

import re

_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>|Parser key|"
    r"- Expected a path but|- Problem with given class_path|Problem with given class_path"
)


def explain(message: str) -> str:
    """The one line of a jsonargparse message that says what is wrong, with the key it is about.

    Args:
        message: The whole message; unions of types make it long, one paragraph for each type tried.

    >>> report = 'Parser key "trainer.max_epochs":\\n  Errors:\\n  - Expected a <class \\'int\\'>\\n  Given value: soon'
    >>> explain(report)
    "trainer.max_epochs: Expected a <class 'int'>. Got value: soon"
    """
    if message.startswith("Problems parsing"):
        return _one_line(message)  # YAML's own report, with the line and column at its end
    keys = re.findall(r'Parser key "([^"]+)"', message)
    classes = re.findall(r"class_path '(?:[\w.]*\.)?(\w+)'", message)
    reasons = [line.strip().removeprefix("- ") for line in message.splitlines() if not _NOISE.search(line)]
    reasons = [r for r in reasons if r] or [_one_line(re.sub(r'Parser key "[^"]+":', "", message))]
    key = ".init_args.".join(keys) if classes else ".".join(keys)
    return _phrase(key, reasons[0], classes[-1] if classes else None, message)


def _phrase(key: str, reason: str, class_name: str | None, message: str) -> str:
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+)", reason)
    if unknown and class_name:
        option = unknown.group(1) or unknown.group(2)
        return f"{key}.init_args.{option}: {class_name} has no such option; `--{key}.help {class_name}` lists them."
    given = re.findall(r"^\s*Given value: (?!NestedArg|Namespace)(.*)$", message, re.MULTILINE)
    if given and "Got value" not in reason and given[-1] not in reason:
        reason = f"{reason}. Got value: {given[-1]}"
    return _one_line(f"{key}: {reason}" if key else reason)


def _one_line(text: str) -> str:
    line = re.sub(r"\s+", " ", text.strip())
    return line if len(line) < 350 else line[:347] + "..."
