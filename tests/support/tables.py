"""Tables of cases in YAML, next to the tests that read them.

A table has `columns`, the test's arguments, and `rows`. `!usage` is a `Usage` by its counts above zero, `!bytes` a text
in UTF-8, `!tuple` a tuple.
"""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from billing.usage import Usage


class _Loader(yaml.SafeLoader):
    """Reads those tags, too."""


_Loader.add_constructor("!usage", lambda loader, node: Usage(**loader.construct_mapping(node)))
_Loader.add_constructor("!bytes", lambda loader, node: loader.construct_scalar(node).encode())
_Loader.add_constructor("!tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))


class Tables:
    """The tables in the file that is named as a test module, with the ending `.yaml`."""

    def __init__(self, module: str) -> None:
        text = Path(module).with_suffix(".yaml").read_text("utf-8")
        self.content: Final[dict[str, Any]] = yaml.load(text, _Loader)  # noqa: S506  (a `SafeLoader`)

    def each(self, name: str) -> pytest.MarkDecorator:
        """Run a test with each row of a table."""
        table = self.content[name]
        names, rows = table["columns"], table["rows"]
        return pytest.mark.parametrize(names, [row[0] for row in rows] if len(names) == 1 else rows)
