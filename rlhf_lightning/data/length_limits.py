"""Limits on the tokens of prompts and responses, and what they leave of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rlhf_lightning.errors import UserError

OnLong = Literal["error", "drop"]


class LengthLimits:
    """Applies token limits to rows and counts what it changed, to say so once."""

    def __init__(self, max_prompt: int, max_response: int, on_long_prompt: OnLong) -> None:
        self.max_prompt, self.max_response, self.on_long_prompt = max_prompt, max_response, on_long_prompt
        self.dropped, self.cut, self.lost_turns = 0, 0, 0

    def prompt_fits(self, ids: Sequence[int], where: str) -> bool:
        """Whether a prompt is short enough.

        Raises:
            UserError: It is not, and the user did not ask to drop such rows; or it has no tokens at all.
        """
        if not ids:
            raise UserError(f"{where}: the tokenizer makes no tokens of the prompt; delete the row or repair its text.")
        if len(ids) <= self.max_prompt:
            return True
        if self.on_long_prompt == "error":
            raise UserError(
                f"{where}: the prompt has {len(ids)} tokens, more than data.init_args.max_prompt_tokens = "
                f"{self.max_prompt}. Raise the limit, or set data.init_args.on_long_prompt to 'drop'."
            )
        self.dropped += 1
        return False

    def cut_response(self, ids: list[int]) -> list[int]:
        """A response cut to the limit; a cut response has no EOS, as if the model had been stopped there."""
        if len(ids) <= self.max_response:
            return ids
        self.cut += 1
        return ids[: self.max_response]

    def report(self, split: str) -> None:
        """Print what was left out or cut in a split."""
        if self.dropped:
            print(f"data.{split}: left out {self.dropped} rows with prompts over {self.max_prompt} tokens.")
        if self.cut:
            print(f"data.{split}: cut {self.cut} responses to {self.max_response} tokens.")
        if self.lost_turns:
            print(f"data.{split}: that takes away {self.lost_turns} later answers of conversations altogether.")
        self.dropped = self.cut = self.lost_turns = 0


def require_rows(items: Sequence[Any], key: str) -> None:
    """
    Raises:
        UserError: No rows are left.
    """
    if not items:
        raise UserError(f"{key}: no rows are left after the length limits; raise data.init_args.max_prompt_tokens.")
