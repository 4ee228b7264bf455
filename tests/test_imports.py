"""No import comes back to where it began. Layers and forbidden imports are import-linter's (`pyproject.toml`)."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

from tests.test_docstrings import tree_of

ROOT: Final = Path(__file__).parent.parent


def name_of(path: Path) -> str:
    """Return a module's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS: Final = {
    name_of(path): path for top in ("gateway", "billing", "metergate") for path in (ROOT / top).rglob("*.py")
}


@cache
def trees() -> dict[str, ast.Module]:
    """Return every module, parsed."""
    return {name: tree_of(path) for name, path in PATHS.items()}


def is_for_types(node: ast.AST) -> bool:
    """Return whether this is an `if TYPE_CHECKING`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_for_types(node):
            yield node
            yield from nodes(node)


def imported(found: Iterator[ast.AST], name: str) -> set[str]:
    """Return which modules are imported by some statements of one."""
    names: set[str] = set()
    for node in found:
        if isinstance(node, ast.Import):
            names.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                within = f"{node.module}.{each.name}"
                names.add(within if within in PATHS else node.module)
    return names & PATHS.keys() - {name}


@cache
def at_import() -> dict[str, set[str]]:
    """Return what each module imports when it is imported."""
    return {name: imported(nodes(tree), name) for name, tree in trees().items()}


def test_no_import_comes_back_to_where_it_began() -> None:
    try:
        TopologicalSorter(at_import()).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(error.args[1]))
