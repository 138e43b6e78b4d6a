"""The one error type that is meant for the person at the keyboard."""

from __future__ import annotations

from typing import TypeVar

Kind = TypeVar("Kind", bound=BaseException)


class UserError(ValueError):
    """Something the user gave (a key, a file, a row, an artefact) cannot be used as it is.

    The message is the whole report: it names the configuration key, file or row at fault and says what to
    do about it. The command line prints it without a traceback; from Python it is an ordinary exception.
    """


def in_chain(error: BaseException | None, *kinds: type[Kind]) -> Kind | None:
    """The first of some kinds in an exception and what is behind it; libraries wrap what is raised in them."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error
