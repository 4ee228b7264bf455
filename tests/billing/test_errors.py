"""The tree of exceptions in `billing.errors` is the one in the code, and nothing else is raised."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import billing
import gateway
from billing import errors

ROOT = "MetergateError"
FIRST = "StoreError"


@cache
def classes() -> dict[str, tuple[str, list[str]]]:
    """Every class of both packages that has a base: its module and its bases."""
    found = {}
    for package in (billing, gateway):
        folder = Path(package.__file__ or "").parent
        for path in folder.rglob("*.py"):
            module = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and node.bases:
                    found[node.name] = module, [base.id for base in node.bases if isinstance(base, ast.Name)]
    return found


def test_the_tree_is_drawn():
    found = classes()
    below = defaultdict(list)

    def is_ours(name):
        return name == ROOT or any(is_ours(base) for base in found.get(name, ("", []))[1])

    for name, (_, bases) in found.items():
        if name != ROOT and is_ours(name):
            below[next(base for base in bases if is_ours(base))].append(name)

    def drawn(name, prefix=""):
        lines = []
        names = sorted(below[name], key=lambda each: (each != FIRST, found[each][0], each))
        for number, each in enumerate(names):
            lines.append(f"{prefix + '+-- ' + each:<34} {found[each][0]}")
            lines += drawn(each, prefix + ("    " if number + 1 == len(names) else "|   "))
        return lines

    docstring = errors.__doc__.partition(f"\n{ROOT}\n")[2].strip().splitlines()
    assert docstring == drawn(ROOT)


def test_every_exception_is_in_the_tree():
    found = classes()
    builtin = {"Exception", "ValueError", "RuntimeError", "OSError", "LookupError", "KeyError", "TypeError"}
    assert {name for name, (_, bases) in found.items() if set(bases) & builtin and ROOT not in bases} - {ROOT} == set()
