"""Every command of `metergate`, as it is called."""

from collections.abc import Iterator
from typing import Any, Final

import typer

from gateway.commands.root import make_app


def _tree(group: Any, *above: str) -> Iterator[str]:
    for name in group.list_commands(None):
        below = group.get_command(None, name)
        yield " ".join((*above, name))
        if hasattr(below, "list_commands"):
            yield from _tree(below, *above, name)


COMMANDS: Final = list(_tree(typer.main.get_command(make_app())))
"""Groups among them."""
