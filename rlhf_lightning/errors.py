"""The one error type that is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave (a key, a file, a row, an artefact) cannot be used as it is.

    The message is the whole report: it names the configuration key, file or row at fault and says what to
    do about it. The command line prints it without a traceback; from Python it is an ordinary exception.
    """
