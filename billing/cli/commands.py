"""A function becomes a command of `metergate`.

`add_command` takes an async function whose first parameter is the `Output`; its others are the command's own options
and arguments, as typer wants them, its docstring the help. The common options are added, the event loop is run, and a
`CommandFailed` becomes a sentence and an exit code. `add_call` is the same for a function of a `BillingClient`.
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from typing import Any, get_type_hints

import typer

from billing.cli.failures import CommandFailed, explained
from billing.cli.options import Common
from billing.cli.output import Output, Shown
from billing.client import BillingClient

Work = Callable[..., Coroutine[Any, Any, int | None]]
"""An async function of an `Output` and a command's own options; answers the exit code, None for 0."""
Call = Callable[..., Awaitable[Shown]]
"""An async function of a `BillingClient` and a command's own options."""
Connect = Callable[[Output], AbstractAsyncContextManager[BillingClient]]
"""How to reach the billing API by what the output's options say; raises `CommandFailed` where that can't be."""


def _common_parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Common, include_extras=True)
    return [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(Common)
    ]


_COMMON = _common_parameters()


def group(help_text: str) -> typer.Typer:
    """A group of commands; without one named, its help is shown."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def add_command(app: typer.Typer, name: str, work: Work) -> None:
    """Make `work` the command `name` of `app`."""

    @functools.wraps(work)
    def command(**given: Any) -> None:
        common = Common(**{parameter.name: given.pop(parameter.name) for parameter in _COMMON})
        try:
            with Output.opened(common) as output:
                code = asyncio.run(work(output, **given))
        except CommandFailed as failed:
            typer.echo(f"metergate: {failed}", err=True)
            code = failed.code
        if code:
            raise typer.Exit(code)

    own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
    parameters = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *_COMMON]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name)(command)


def add_call(app: typer.Typer, name: str, call: Call, connect: Connect) -> None:
    """Make `call` the command `name` of `app`: connected, and its result shown."""

    @functools.wraps(call)
    async def work(output: Output, **given: Any) -> None:
        with explained():
            async with connect(output) as client:
                shown = await call(client, **given)
        output.show(shown)

    add_command(app, name, work)
