"""The package's own rules: import order, file sizes, names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rlhf_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))
STAGES = ("sft", "reward", "ppo")


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, outside `if TYPE_CHECKING`."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                self.generic_visit(node)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            if node.module and node.module.startswith("rlhf_lightning"):
                found.add(node.module)

    Visitor().visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_stages_meet_only_in_their_artefacts(path: Path) -> None:
    stage = path.relative_to(PACKAGE).parts[0]
    if stage in STAGES:
        others = tuple(f"rlhf_lightning.{s}" for s in STAGES if s != stage)
        assert not [m for m in imported(path) if m.startswith(others)]
    if stage in (*STAGES, "models", "data"):
        later = ("rlhf_lightning.evaluation", "rlhf_lightning.quickstart", "rlhf_lightning.cli")
        assert not [m for m in imported(path) if m.startswith(later)]


def test_imports_have_no_circle() -> None:
    graph = {}
    for path in FILES:
        name = ".".join(("rlhf_lightning", *path.relative_to(PACKAGE).with_suffix("").parts))
        graph[name.removesuffix(".__init__")] = imported(path)

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        for child in graph.get(name, ()):
            visit(child, (*above, name))

    for name in graph:
        visit(name, ())


def test_files_stay_small_and_have_names_of_their_own() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 300, path
        assert path.stem not in {"utils", "helpers", "common", "misc"}
