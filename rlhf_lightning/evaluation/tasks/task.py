"""What a task is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, TypeAlias

from rlhf_lightning.bounds import check_number
from rlhf_lightning.data.records import Record
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.tasks.resampling import Metric
from rlhf_lightning.evaluation.tasks.rows import R, digest, read_rows
from rlhf_lightning.ppo.reward_terms import describe

Outcome: TypeAlias = dict[str, Any]
"""What came of one item: everything that its metrics need, and what a reader wants to see. JSON."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_NOT_IDENTITY = {"data", "examples", "name", "rows"}


@dataclass(kw_only=True)
class Task(ABC, Generic[R]):
    """Rows, what to ask about each, and what to make of the answers.

    Args:
        data: Files, globs or Hub names.
        name: What it is called in results; by default the kind of task.
        limit: Take the first so many rows only.
    """

    data: str | list[str]
    name: str = ""
    limit: int | None = None
    rows: list[R] = field(default_factory=list, init=False, repr=False)
    """The rows, once `prepare` has read them."""
    about_harms: ClassVar[bool] = False
    """It looks for harms, and not for what alignment may have cost."""

    def __post_init__(self) -> None:
        self.name = self.name or self.default_name
        if not _NAME.fullmatch(self.name):
            raise UserError(f"tasks: the name {self.name!r} cannot be a file's; use letters, digits, '.', '_' and '-'.")
        check_number(f"{self.key}.limit", self.limit, at_least=1)

    @property
    def default_name(self) -> str:
        """The class's name in lower case, words apart: `multiple_choice`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def key(self) -> str:
        """What errors call it."""
        return f"tasks.{self.name}"

    def prepare(self) -> None:
        """Read and check everything, before any model is asked.

        Raises:
            UserError: A file or row is broken, or a library is missing.
        """
        self.rows = read_rows(self.data, f"{self.key}.data", self.parse, self.limit)
        if not self.rows:
            raise UserError(f"{self.key}.data: there are no rows in {self.data}.")

    @abstractmethod
    def parse(self, record: Record) -> Iterable[R]:
        """One record of a file to rows.

        Raises:
            UserError: It is broken.
        """

    @abstractmethod
    def ask(self, model: LanguageModel, numbers: Sequence[int], seed: int) -> list[Outcome]:
        """Ask a model about some rows.

        Args:
            model: The model.
            numbers: Which of `rows`. Random numbers depend on these, not on which rows are asked together.
            seed: Seed of random numbers.

        Returns:
            An outcome for each.
        """

    @property
    @abstractmethod
    def metrics(self) -> list[Metric]:
        """What is reported."""

    @property
    def headline(self) -> list[str]:
        """The metrics that a short summary shows."""
        return [self.metrics[0].name]

    @property
    def notes(self) -> list[str]:
        """What a reader of the results has to know."""
        return []

    def identity(self) -> dict[str, Any]:
        """What outcomes depend on, beside model and seed; outcomes of another identity are not continued."""
        settings = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_IDENTITY}
        return {"task": type(self).__name__, **settings, "rows": digest(self.rows)}


def _plain(value: Any) -> Any:
    """A setting as JSON."""
    if isinstance(value, Callable):  # type: ignore[arg-type]
        return describe(value)
    return list(value) if isinstance(value, tuple) else value
