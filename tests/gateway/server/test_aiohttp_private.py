"""The private parts of aiohttp that the edge touches: all are listed, and a version without them is told apart."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web, web_protocol

from gateway import app
from gateway.config.defaults import Defaults
from gateway.server import aiohttp_private
from gateway.server.aiohttp_private import CONNECTION, METHODS, REQUEST, SERVER, UnknownAiohttp, check_edge

ROOM = Path(aiohttp_private.__file__).parent
LISTED = {*CONNECTION, *METHODS, *REQUEST, *SERVER, "_make_server", "_replace"}


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _used_and_own(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Private attributes that a module uses, and those that it defines: by a slot, an assignment to `self` or a def."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, True
        elif isinstance(node, ast.Assign) and any(getattr(each, "id", "") == "__slots__" for each in node.targets):
            yield from ((each.value, True) for each in ast.walk(node.value) if isinstance(each, ast.Constant))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, True  # of a class, or of the module
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"
            yield node.attr, own


def test_every_private_name_of_aiohttp_in_this_package_is_listed():
    used: set[str] = set()
    own: set[str] = set()
    for module in ROOM.glob("*.py"):
        for name, defined in _used_and_own(ast.parse(module.read_text("utf-8"))):
            if _private(name):
                used.add(name)
                if defined:
                    own.add(name)
    assert used - own <= LISTED
    of_aiohttp = {name for kind in (web.RequestHandler, web.Server) for each in kind.__mro__ for name in vars(each)}
    assert used & of_aiohttp <= LISTED
    assert {name for name in LISTED if _private(name)} <= used


def test_no_other_module_of_this_package_imports_private_parts():
    for module in ROOM.glob("*.py"):
        if module.name != "aiohttp_private.py":
            source = module.read_text("utf-8")
            found = [name for name in ("web_protocol", "http_parser", "http_exceptions") if name in source]
            assert found == [], module.name


def test_the_installed_aiohttp_has_them():
    assert aiohttp_private.missing_parts() == ()
    check_edge("guarded")


@pytest.mark.parametrize("name", ["_drain_helper", "_resume_reading_if_drained", "finish_response"])
def test_a_method_that_is_gone_is_named(name, monkeypatch):
    owner = next(each for each in web.RequestHandler.__mro__ if name in vars(each))
    monkeypatch.delattr(owner, name)
    assert f"RequestHandler.{name} is missing" in aiohttp_private.missing_parts()


def test_a_method_with_other_parameters_is_named(monkeypatch):
    monkeypatch.setattr(web.RequestHandler, "finish_response", lambda self, request, resp: None)
    (found,) = aiohttp_private.missing_parts()
    assert found == "RequestHandler.finish_response takes (request, resp), not (request, resp, start_time)"


def test_an_attribute_that_is_another_thing_is_named(monkeypatch):
    made = web.RequestHandler.__init__

    def make(self, *args, **options):
        made(self, *args, **options)  # type: ignore[arg-type]
        self._messages = []  # type: ignore[assignment]
        del self._waiter

    monkeypatch.setattr(web.RequestHandler, "__init__", make)
    found = aiohttp_private.missing_parts()
    assert set(found) == {"RequestHandler._messages is a list", "RequestHandler._waiter is missing"}


def test_a_constructor_that_fails_is_named(monkeypatch):
    monkeypatch.delattr(web_protocol, "HttpRequestParser")
    (found,) = aiohttp_private.missing_parts()
    assert found.startswith("a RequestHandler can't be made (NameError")


def test_the_error_names_the_parts_and_the_way_out(monkeypatch):
    monkeypatch.setattr(aiohttp_private, "MISSING", ("RequestHandler._waiter is missing",))
    with pytest.raises(UnknownAiohttp, match=r"RequestHandler\._waiter is missing.*`edge: plain`"):
        check_edge("guarded")
    check_edge("plain")


def test_a_worker_says_so_and_ends(monkeypatch, capsys):
    monkeypatch.setattr(aiohttp_private, "MISSING", ("RequestHandler._waiter is missing",))
    monkeypatch.setattr("sys.argv", ["worker", "--fd", "0"])
    for name, value in (("DATABASE_URL", "postgres://u@h/d"), ("REDIS_URL", "redis://h"), ("ADMIN_API_KEY", "k" * 32)):
        monkeypatch.setenv(name, value)
    assert Defaults().edge.edge == "guarded"
    assert app.main() == 1
    assert "RequestHandler._waiter is missing" in capsys.readouterr().err
