"""Turns a parser's report into one line that names the key."""

from __future__ import annotations

import re

_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>|Parser key|"
    r"- Expected a path but|- Problem with given class_path|Problem with given class_path"
)
_EXPECTED = re.compile(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\])")


def explain(message: str) -> str:
    """The one line of a jsonargparse message that says what is wrong, with the key it is about.

    Args:
        message: The whole message; unions of types make it long, one paragraph for each type tried.

    >>> report = 'Parser key "trainer.max_epochs":\\n  Errors:\\n  - Expected a <class \\'int\\'>\\n  Given value: soon'
    >>> explain(report)
    'trainer.max_epochs: expected int. Got value: soon'
    """
    if message.startswith("Problems parsing"):
        return one_line(message)  # YAML's own report, with the line and column at its end
    if (report := _callable(message)) is not None:
        return one_line(report)
    keys = re.findall(r'Parser key "([^"]+)"', message)
    classes = re.findall(r"class_path '([\w.]+)'", message)
    reasons = [line.strip().removeprefix("- ") for line in message.splitlines() if not _NOISE.search(line)]
    reasons = [r for r in reasons if r] or [one_line(re.sub(r'Parser key "[^"]+":', "", message))]
    key = ".init_args.".join(keys) if classes else ".".join(keys)
    key = key.replace(".lora.init_args.", ".lora.")  # a dataclass: its options stand directly under it
    return _phrase(key, _expectation(reasons), classes[-1] if classes else None, message)


def _callable(message: str) -> str | None:
    """The report about a function or class that was given by its import path, if that is what is wrong."""
    found = re.search(r"expects a function or a callable class: (.*)", message)
    if found is None or found[1].startswith("Parser key") or "but got [" in found[1]:
        return None
    first, *rest = re.findall(r'Parser key "([^"]+)"', message[: found.start()])
    reason = found[1].partition(" Got value:")[0]
    reason = re.sub(r"(?<=callable) or a subclass of \S+", "", reason).rstrip(".")
    if reason.startswith(("Expected an import path", "Expected 'collections", "the following arguments are required")):
        reason = "give the import path of a function alone, or class_path and init_args of a class that can be called"
    return f"{first}.init_args.{'.'.join(rest)}: {reason}."


def _expectation(reasons: list[str]) -> str:
    """The first reason, with the other types of a union where it is one of those tried."""
    tried = [m for r in reasons if (m := _EXPECTED.match(r))]
    if not _EXPECTED.match(reasons[0]):
        return re.sub(r"Not a valid subclass of (\w+)$", r"expected the options of \1", reasons[0])
    types = " or ".join(dict.fromkeys(m[1] or f"one of {m[2]}" for m in tried))
    return f"expected {types}{reasons[0][tried[0].end() :]}"


def _phrase(key: str, reason: str, class_name: str | None, message: str) -> str:
    reason = re.sub(r"Group '(\w+)' does not accept option '(\w+)'", r"Option '\1.\2' is not accepted", reason)
    unknown = re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^\s=]+)", reason)
    if unknown and class_name:
        option = unknown.group(1) or unknown.group(2)
        full = f"{key}.{option}" if key.endswith(".lora") else f"{key}.init_args.{option}"
        lists = f"--{key}.help {class_name}" if key in ("model", "data") else "--print_config"
        return f"{full}: {class_name.rpartition('.')[2]} has no such option; `{lists}` lists them."
    required = re.search(r"the following arguments are required: (.*)", reason)
    if required:
        return f"{_missing(key, required[1])} missing; give a value in a --config file or on the command line."
    given = re.findall(r"^\s*Given value: (?!NestedArg|Namespace)(.*)$", message, re.MULTILINE)
    if given and "Got value" not in reason and not re.search(rf"\b{re.escape(given[0])}\b", reason):
        reason = f"{reason}. Got value: {given[0]}"
    return one_line(f"{key}: {reason}" if key else reason)


def _missing(key: str, names: str) -> str:
    prefix = f"{key}.init_args." if key else ""
    full = [prefix + re.sub(r"^(fit|validate|test|predict)\.", "", name) for name in names.split(", ")]
    return f"{' and '.join(full)} {'is' if len(full) == 1 else 'are'}"


def one_line(text: str) -> str:
    """A message on one line, cut where it is very long."""
    line = re.sub(r"\s+", " ", text.strip())
    return line if len(line) < 350 else line[:347] + "..."
