"""Examples in front of a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.tasks.rows import R, digest, read_rows
from rlhf_lightning.evaluation.tasks.task import Task
from rlhf_lightning.seeding import generator


@dataclass(kw_only=True)
class PromptedTask(Task[R]):
    """A task that asks with an instruction and, perhaps, examples.

    Args:
        examples: Files of the same kind that examples are drawn from, anew for each question: the training split, never
            the rows that are asked about.
        shots: Examples in front of each question.
        instruction: Stands before everything.
        chat: Send the prompt through the chat template, as a message to the assistant. The paper's prompts are plain
            text.
    """

    examples: str | list[str] | None = None
    shots: int = 0
    instruction: str = ""
    chat: bool = False
    pool: list[R] = field(default_factory=list, init=False, repr=False)
    """The rows that examples are drawn from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(f"{self.key}.shots", self.shots, at_least=0)
        if self.shots and self.examples is None:
            raise UserError(f"{self.key}.shots is {self.shots}, but {self.key}.examples is missing: name their file.")

    def prepare(self) -> None:
        """See `Task.prepare`."""
        super().prepare()
        if self.shots:
            assert self.examples is not None
            self.pool = read_rows(self.examples, f"{self.key}.examples", self.parse)
            if len(self.pool) <= self.shots:
                raise UserError(
                    f"{self.key}.shots is {self.shots}, but {self.examples} has {len(self.pool)} rows; one more is "
                    "needed, because a question is never its own example. Lower it, or give more."
                )

    def prompt(self, number: int, seed: int, ask: Callable[[R], str], show: Callable[[R], str]) -> str:
        """The prompt for a row.

        Args:
            number: Which row.
            seed: Examples depend on it and on the row's number.
            ask: A row as a question.
            show: A row as an example, with its answer.
        """
        drawn = pick(self.pool, self.shots, self.rows[number], seed, self.name, number)
        parts = [self.instruction, *(show(row) for row in drawn), ask(self.rows[number])]
        return "\n\n".join(part for part in parts if part)

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return {**{k: v for k, v in super().identity().items() if k != "pool"}, "examples": digest(self.pool)}


def pick(pool: Sequence[R], count: int, item: R, seed: int, purpose: str, number: int) -> list[R]:
    """Examples for an item, none of which is the item itself (or another copy of it).

    As in Brown et al. 2020 (arXiv 2005.14165, §2.4) they are drawn at random for each item.
    """
    if not count:
        return []
    same = replace(item, where="", id="")
    order = torch.randperm(len(pool), generator=generator(seed, f"shots of {purpose}", number)).tolist()
    fit = [pool[i] for i in order[: count + 8] if replace(pool[i], where="", id="") != same]
    if len(fit) < count:
        fit = [pool[i] for i in order if replace(pool[i], where="", id="") != same]
    return fit[:count]
