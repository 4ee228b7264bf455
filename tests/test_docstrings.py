"""Public modules, classes and functions have docstrings."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = sorted(
    path.relative_to(ROOT).as_posix()
    for name in ("billing", "gateway")
    for path in (ROOT / name, *(ROOT / name).rglob("*"))
    if path.is_dir() and any(path.glob("*.py"))
)
# Named, and explained, by asyncio and httptools, which call them.
CALLBACKS = frozenset(
    (
        "connection_made",
        "connection_lost",
        "data_received",
        "eof_received",
        "pause_writing",
        "resume_writing",
        "on_message_begin",
        "on_header",
        "on_headers_complete",
        "on_body",
        "on_chunk_header",
        "on_message_complete",
        "on_url",
        "on_status",
        "on_chunk_complete",
    )
)


class Public(NamedTuple):
    """A public class or function, by its place and name, and its docstring."""

    where: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    text: str | None


@cache
def tree_of(path: Path) -> ast.Module:
    """Return a module as it is parsed."""
    return ast.parse(path.read_text("utf-8"))


def public_of(path: Path) -> Iterator[Public]:
    """Yield what is public in a module, but for methods that another library or a base class names."""

    def of(body: list[ast.stmt], before: str) -> Iterator[Public]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            yield Public(f"{before}{node.name}", node, ast.get_docstring(node))
            if isinstance(node, ast.ClassDef):
                yield from of(node.body, f"{before}{node.name}.")

    yield from of(tree_of(path).body, f"{path.relative_to(ROOT).as_posix()}:")


def modules(room: str) -> list[Path]:
    """Return the modules of a folder."""
    return sorted((ROOT / room).glob("*.py"))


def is_stub(node: ast.AST) -> bool:
    """Return whether a function is a member of a protocol, which its class explains, or one that is set."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    only = node.body[0]
    stub = isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and only.value.value is ...
    return stub or any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in node.decorator_list)


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_public_has_a_docstring(room):
    assert [path.name for path in modules(room) if ast.get_docstring(tree_of(path)) is None] == []
    missing = [
        each.where
        for path in modules(room)
        for each in public_of(path)
        if each.text is None and not is_stub(each.node) and each.node.name not in CALLBACKS
    ]
    assert missing == []
