"""No import comes back to where it began, those for types alone and those inside of functions counted, neither among
modules nor among packages; and a function fits a screen. Layers and forbidden imports are import-linter's
(`pyproject.toml`)."""

import ast
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.test_docstrings import tree_of

ROOT = Path(__file__).parent.parent
MOST_LINES = 60


def name_of(path: Path) -> str:
    """Return a module's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for top in ("gateway", "billing", "metergate") for path in (ROOT / top).rglob("*.py")}


@cache
def imports() -> dict[str, set[str]]:
    """Return which of our modules each module imports, wherever it does."""
    return {name: imported(tree_of(path)) - {name} for name, path in PATHS.items()}


def imported(tree: ast.Module) -> set[str]:
    """Return which of our modules are imported by a module's statements."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                within = f"{node.module}.{each.name}"
                names.add(within if within in PATHS else node.module)
    return names & PATHS.keys()


def packages() -> Mapping[str, set[str]]:
    """Return which packages each package imports."""
    between: dict[str, set[str]] = defaultdict(set)
    for name, found in imports().items():
        between[package_of(name)] |= {package_of(each) for each in found} - {package_of(name)}
    return between


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("graph", [imports, packages], ids=["modules", "packages"])
def test_no_import_comes_back_to_where_it_began(graph):
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(error.args[1]))


def test_a_function_fits_a_screen():
    long = [
        f"{name}:{node.name}: {lines} lines"
        for name, path in PATHS.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES
    ]
    assert not long
