"""One deliberate mistake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Mutation:
    """A text of a source file that is replaced by a wrong one, and the test that must fail then."""

    name: str
    file: str
    """Relative to the repository."""
    old: str
    """Occurs exactly once in the file."""
    new: str
    test: str
    """Pytest node id."""
    equivalent: str = ""
    """Why no test can fail: the change is none. Empty for a real mistake."""

    def mutated(self, source: str) -> str:
        """The source with the mistake."""
        assert source.count(self.old) == 1, f"{self.name}: {source.count(self.old)} occurrences in {self.file}"
        return source.replace(self.old, self.new)


def table(file: str, tests: str, *rows: tuple[str, ...]) -> list[Mutation]:
    """Mutations of a file.

    Args:
        file: Relative to the package.
        tests: The test file that most of them are for.
        rows: (name, old, new, test function or whole node id[, why it is equivalent]).
    """
    prefix = file.removesuffix(".py").replace("/", ".")
    return [
        Mutation(f"{prefix}: {name}", f"rlhf_lightning/{file}", old, new, _node(tests, test), *equivalent)
        for name, old, new, test, *equivalent in rows
    ]


def _node(tests: str, test: str) -> str:
    return test if "::" in test else f"{tests}::{test}"
