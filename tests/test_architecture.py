"""What the documentation and the maps of packages name is there: files, and functions of files."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
NAMED = re.compile(r"`([\w/]+\.py):([\w.]+)`")
PATH = re.compile(r"`((?:billing|gateway|tests|benchmarks)/[\w./-]*)[:`]")
CODE = [
    path
    for name in ("billing", "gateway", "metergate", "tests", "benchmarks")
    for ending in ("py", "lua", "sql")
    for path in (ROOT / name).rglob(f"*.{ending}")
]
CITED = re.compile(r"\b(?:rules?|invariants?) ((?:R|I)\d)")
CITED_PAGE = re.compile(r"\b(docs/[\w/-]+\.md)\b")
FOLDERS = (
    "billing",
    "gateway",
    "metergate",
    "benchmarks",
    "tests/agents",
    "tests/chaos",
    "tests/clients",
    "tests/support",
)
MAPS = [path for name in FOLDERS for path in (ROOT / name).rglob("__init__.py")]
PACKAGES = sorted(path.parent.relative_to(ROOT).as_posix() for path in MAPS)


@cache
def defined(path: Path) -> frozenset[str]:
    """Names of a module's functions and classes, and of its classes' methods as `Class.method`."""

    def of(body: list[ast.stmt], before: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield before + node.name
                if isinstance(node, ast.ClassDef):
                    yield from of(node.body, f"{node.name}.")

    return frozenset(of(ast.parse(path.read_text("utf-8")).body))


@pytest.mark.parametrize("tour", ["A request", "A key's creation", "A payment", "`make run`"])
def test_a_tour_leads_through_functions_that_exist(tour):
    part = ARCHITECTURE.read_text("utf-8").partition(f"### {tour}\n")[2].partition("\n#")[0]
    steps = NAMED.findall(part)
    assert len(steps) >= 9
    assert [f"{file}:{name}" for file, name in steps if name not in defined(ROOT / file)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    named = [path for path in PATH.findall(page.read_text("utf-8")) if "/." not in path]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_rules_and_invariants_that_code_cites_are_defined():
    protocol = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    defined_here = {*re.findall(r"^### (R\d)", protocol, re.MULTILINE), *re.findall(r"\*\*(I\d)\*\*", protocol)}
    assert defined_here == {"R1", "R2", "R3", "R4", "R5", "R6", "I1", "I2", "I3", "I4"}
    cited = {name for path in CODE for name in CITED.findall(path.read_text("utf-8"))}
    assert cited - defined_here == set()


def test_code_cites_no_page_that_is_not_in_the_repository():
    cited = {name for path in CODE for name in CITED_PAGE.findall(path.read_text("utf-8"))}
    assert {name for name in cited if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_s_map_names_each_of_its_modules(package):
    """One that it does not name is one that a reader does not find."""
    folder = ROOT / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith(("__", "test_", "conftest"))}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert {name for name in modules | folders if not re.search(rf"\b{name}\b", text)} == set()
