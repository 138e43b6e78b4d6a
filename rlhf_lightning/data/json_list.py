"""The elements of one JSON list, however long, a piece of its text at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_WHITESPACE = re.compile(r"[ \t\r\n]*")
EXCERPT = 20
"""Characters shown on either side of a JSON error."""
_MARGIN = EXCERPT + 4
"""Characters. An error nearer than this to the end of what has been read may come from the cut (`tru` for `true`, \
half an escape); it also leaves text on both sides of an error to show."""
_LONGEST_ELEMENT = 64 * 2**20
"""Characters. A longer element is a string without its closing quote, and would be taken into memory whole."""


class BrokenListError(Exception):
    """A list that is not JSON.

    Args:
        cause: What the decoder said.
        line: From 1.
        column: From 1.
        excerpt: The text around the place.
    """

    def __init__(self, cause: Exception, line: int, column: int, excerpt: str) -> None:
        super().__init__(str(cause))
        self.cause, self.line, self.column, self.excerpt = cause, line, column, excerpt


def list_elements(chunks: Iterator[str]) -> Iterator[tuple[int, object]]:
    """The line on which each element begins, from 1, and the element.

    Args:
        chunks: The text, whose first character beyond white space is "[".

    Raises:
        BrokenListError: The text is not one JSON list; the elements before the place have been given.
    """
    text = _Text(chunks)
    text.expect("[")
    if text.next_is("]"):
        text.expect("]")
    else:
        while True:
            yield text.element()
            if text.next_is("]"):
                text.expect("]")
                break
            text.expect(",")
    text.expect_end()


class _Text:
    """A window on the text: what has been read of it and not yet been used."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._window, self._position = "", 0
        self._mark, self._line, self._column = 0, 1, 1  # line and column of one place at or before the position
        self._ended = False
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        """Read on, at least as much as is waiting, so that a long element is not parsed again and again."""
        parts: list[str] = []
        waiting, read = len(self._window) - self._position, 0
        while read <= waiting and not self._ended:
            chunk = next(self._chunks, "")
            self._ended = not chunk
            parts.append(chunk)
            read += len(chunk)
        if read:
            used = max(0, self._position - _MARGIN)
            self._count_lines(max(self._mark, used))
            self._window = "".join([self._window[used:], *parts])
            self._position, self._mark = self._position - used, self._mark - used
        return read > 0

    def _count_lines(self, position: int) -> None:
        """Move the mark forward."""
        if breaks := self._window.count("\n", self._mark, position):
            self._line, self._column = self._line + breaks, position - self._window.rfind("\n", 0, position)
        else:
            self._column += position - self._mark
        self._mark = position

    def _skip(self) -> None:
        while True:
            match = _WHITESPACE.match(self._window, self._position)
            assert match is not None
            self._position = match.end()
            if self._position < len(self._window) or not self._more():
                return

    def next_is(self, character: str) -> bool:
        """Whether it comes next, white space aside."""
        self._skip()
        return self._window.startswith(character, self._position)

    def expect(self, character: str) -> None:
        """Go past a character of the list itself."""
        if not self.next_is(character):
            raise self._unexpected("Expecting ',' or ']'")
        self._position += 1

    def expect_end(self) -> None:
        """Nothing but white space may follow."""
        self._skip()
        if self._position < len(self._window):
            raise self._unexpected("Extra data after the list")

    def element(self) -> tuple[int, object]:
        """Go past one element."""
        self._skip()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._position)
            except (ValueError, RecursionError) as error:
                if not self._cut(error) or not self._more():
                    raise self._broken(error) from error
                continue
            # A number near the end of the window may go on: 1 of 12, or of 1.5e+3.
            if end < len(self._window) - _MARGIN or not self._more():
                self._count_lines(self._position)
                self._position = end
                return self._line, value

    def _cut(self, error: Exception) -> bool:
        """Whether an error may come from the end of the window and not from the text."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        if len(self._window) - self._position > _LONGEST_ELEMENT:
            raise self._broken(ValueError(f"an element of more than {_LONGEST_ELEMENT >> 20} MiB")) from error
        return error.msg.startswith("Unterminated string") or error.pos > len(self._window) - _MARGIN

    def _unexpected(self, problem: str) -> BrokenListError:
        while len(self._window) - self._position < EXCERPT and self._more():
            pass  # for the excerpt alone
        return self._broken(json.JSONDecodeError(problem, self._window, self._position))

    def _broken(self, error: Exception) -> BrokenListError:
        position = error.pos if isinstance(error, json.JSONDecodeError) else self._position
        excerpt = self._window[max(0, position - EXCERPT) : position + EXCERPT]
        self._count_lines(position)
        return BrokenListError(error, self._line, self._column, excerpt)
