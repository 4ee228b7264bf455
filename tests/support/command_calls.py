"""What commands do with a client, without a command line: the calls that were made commands, by their names."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import typer

from billing.cli.output import Shown

Called = Callable[..., Awaitable[Shown]]


def calls_of(add: Callable[[typer.Typer, Any], None], *groups: str) -> dict[str, Called]:
    """Return the calls of a group: each takes a client, and the command's options by their names."""
    app = typer.Typer()
    add(app, None)
    for name in groups:
        app = next(each.typer_instance for each in app.registered_groups if each.name == name)  # type: ignore[misc]
    return {str(each.name): _called(inspect.unwrap(each.callback)) for each in app.registered_commands if each.callback}


def _called(call: Callable[..., Any]) -> Called:
    options = inspect.signature(call).parameters.values()
    defaults = {each.name: each.default for each in options if each.default is not inspect.Parameter.empty}

    async def called(client: object, **given: Any) -> Shown:
        shown: Shown = await call(client, **{**defaults, **given})
        return shown

    return called
