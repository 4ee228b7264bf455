"""Tables of cases in YAML, next to the tests that read them.

A table has `columns`, the test's arguments, and `rows`. `!usage`, `!work` and `!parts` are these structs, without the
fields that have their defaults; `!bytes` is a text in UTF-8, `!tuple` a tuple, `!power` a large number (`[10, 4000]`),
`!run` a text with a sign that is repeated (`[before, sign, times, after]`), `!many` a list of one item, repeated, and
`!names` a mapping of so many names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from billing.usage import Usage
from gateway.dialects.facts import Parts, Work


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C, ten times as fast
    """Reads those tags, too."""


def _struct(kind: type) -> Callable[[Any, Any], object]:
    return lambda loader, node: kind(**loader.construct_mapping(node, deep=True))


_Loader.add_constructor("!usage", _struct(Usage))
_Loader.add_constructor("!work", _struct(Work))
_Loader.add_constructor("!parts", _struct(Parts))
_Loader.add_constructor("!bytes", lambda loader, node: loader.construct_scalar(node).encode())
_Loader.add_constructor("!tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))
_Loader.add_constructor("!power", lambda loader, node: pow(*loader.construct_sequence(node)))
_Loader.add_constructor("!many", lambda loader, node: _many(*loader.construct_sequence(node)))
_Loader.add_constructor("!names", lambda loader, node: {str(n): "" for n in range(int(loader.construct_scalar(node)))})
_Loader.add_constructor("!run", lambda loader, node: _run(*loader.construct_sequence(node)))


def _run(before: str, sign: str, times: int, after: str) -> str:
    return before + sign * times + after


def _many(item: object, times: int) -> list[object]:
    return [item] * times


class Tables:
    """The tables in the file that is named as a test module, with the ending `.yaml`."""

    def __init__(self, module: str) -> None:
        text = Path(module).with_suffix(".yaml").read_text("utf-8")
        self.content = yaml.load(text, _Loader)  # noqa: S506  (a `SafeLoader`)

    def each(self, name: str) -> pytest.MarkDecorator:
        """Run a test with each row of a table."""
        table = self.content[name]
        names, rows = table["columns"], table["rows"]
        if len(names) == 1:
            return pytest.mark.parametrize(names[0], [row[0] for row in rows])
        return pytest.mark.parametrize(names, rows)
