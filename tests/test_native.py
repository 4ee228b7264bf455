"""What a module must keep to that a native build compiles, and that what was compiled here is of these sources."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.commands import CHECKOUT
from tools import native

MODULES = native.modules()
# What a compiled class can't come from: types of C, msgspec's structs (whose options, as `frozen=True`, would be lost
# in silence), and protocols of asyncio's.
FOREIGN = frozenset(("str", "int", "bytes", "float", "tuple", "list", "dict", "set", "frozenset", "Struct"))
ASYNCIO = frozenset(("asyncio.Protocol", "asyncio.BufferedProtocol", "asyncio.DatagramProtocol"))


def classes(source: Path) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ClassDef)]


def bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases]


def imported_late(source: Path) -> set[str]:
    """Names that are imported for the checker of types alone."""
    found: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            imports = (each for each in node.body if isinstance(each, ast.Import | ast.ImportFrom))
            found |= {alias.asname or alias.name for each in imports for alias in each.names}
    return found


def test_the_list_names_each_module_once_in_order():
    lines = [str(path.relative_to(CHECKOUT)) for path in MODULES]
    assert lines == sorted(set(lines))
    assert all(path.is_file() for path in MODULES)


@pytest.mark.parametrize("source", MODULES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_what_is_compiled_keeps_to_what_can_be(source):
    late = imported_late(source)
    for node in classes(source):
        named = bases(node)
        assert not FOREIGN & {name.rpartition(".")[2] for name in named}, f"{node.name}: it needs an uncompiled module"
        assert not ASYNCIO & set(named), f"{node.name}: asyncio calls what it does not declare"
        if node.decorator_list or "NamedTuple" in named:  # whose fields' types are made as it is
            for field in node.body:
                used = {each.id for each in ast.walk(field) if isinstance(each, ast.Name)}
                assert not isinstance(field, ast.AnnAssign) or not used & late, f"{node.name}: import {used & late}"


def test_no_class_that_is_compiled_has_heirs_that_are_not():
    ours = {node.name: source for source in MODULES for node in classes(source)}
    for folder in ("gateway", "billing"):
        for source in sorted((CHECKOUT / folder).rglob("*.py")):
            text = "" if source in MODULES else source.read_text()
            for node in classes(source) if text else ():
                for name in set(bases(node)) & ours.keys():
                    module = ".".join(ours[name].relative_to(CHECKOUT).with_suffix("").parts)
                    imported = re.search(rf"from {re.escape(module)} import[^\n(]*(\([^)]*)?\b{name}\b", text)
                    assert imported is None, f"{source}: {node.name} inherits from {name} of {module}"


def test_what_was_compiled_is_of_these_sources():
    assert native.stale() == [], "make native compiles them anew, make pure goes without"
