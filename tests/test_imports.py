"""How modules hang together: how long a chain of imports is, that none comes back to where it began, and who has one
importer alone. Layers and forbidden imports are import-linter's (`pyproject.toml`)."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

from tests.test_docstrings import tree_of

ROOT: Final = Path(__file__).parent.parent
LONGEST: Final = 12
"""Modules of a chain. Who reads the first of them may have to read the last."""
ONE_IMPORTER: Final = 0.2
"""Share of modules that one other imports, not for types alone: mostly a part of that one, which could stand in it."""
SMALL_LINES: Final = 5


def name_of(path: Path) -> str:
    """Return a module's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS: Final = {name_of(path): path for top in ("gateway", "billing") for path in (ROOT / top).rglob("*.py")}


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


def nodes_of_calls(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported, or when its functions are called: where one imports, too."""
    for node in ast.iter_child_nodes(tree):
        if not is_for_types(node):
            yield node
            yield from nodes_of_calls(node)


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


@cache
def chain(name: str) -> tuple[str, ...]:
    """Return the longest chain of imports that begins with a module."""
    return (name, *max((chain(each) for each in at_import()[name]), key=len, default=()))


def test_no_import_comes_back_to_where_it_began() -> None:
    try:
        TopologicalSorter(at_import()).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(error.args[1]))


def test_chains_of_imports_are_short() -> None:
    longest = max(map(chain, PATHS), key=len)
    assert len(longest) <= LONGEST, " > ".join(longest)


def is_routes(tree: ast.Module) -> bool:
    """Return whether a module is a resource of the API, of which one list of routes is made: it is part of no other."""
    return any(isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROUTES" for node in tree.body)


def test_few_modules_have_one_importer() -> None:
    ever = (imported(nodes_of_calls(tree), name) for name, tree in trees().items())
    importers = Counter(each for names in ever for each in names)
    real = [name for name, path in PATHS.items() if len(path.read_text("utf-8").splitlines()) > SMALL_LINES]
    alone = [name for name in real if importers[name] == 1 and not is_routes(trees()[name])]
    assert len(alone) < ONE_IMPORTER * len(real), f"{len(alone)} of {len(real)}: {', '.join(sorted(alone))}"
