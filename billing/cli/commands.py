"""A function becomes a command of `metergate`.

`add_command` takes an async function whose first parameter is the `Output`; its others are the command's own options
and arguments, as typer wants them, its docstring the help. The common options are added, the event loop is run, and a
`CommandFailed` becomes a sentence and an exit code. `add_call` is the same for a function of a `BillingClient`.

The whole tree of commands is made at each start, and modules of commands import what only their help needs. What a
command works with is imported inside its function: aiohttp, the drivers of both stores and the gateway take ten times
as long as everything else.
"""

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from billing.cli.failures import CommandFailed
from billing.cli.options import REMOTE, RESULT, Common
from billing.cli.output import Output, Shown

if TYPE_CHECKING:
    from billing.client import BillingClient

Work = Callable[..., Coroutine[Any, Any, int | None]]
"""An async function of an `Output` and a command's own options; answers the exit code, None for 0."""
Call = Callable[..., Awaitable[Shown]]
"""An async function of a `BillingClient` and a command's own options."""
Connect = Callable[[Output], AbstractAsyncContextManager["BillingClient"]]
"""How to reach the billing API by what the output's options say; raises `CommandFailed` where that can't be."""


_HINTS = get_type_hints(Common, include_extras=True)


def _common_parameters(used: Collection[str]) -> list[inspect.Parameter]:
    """The common options; those that a command does not use are taken, and left out of its help."""
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=_HINTS[each.name] if each.name in used else _hidden(_HINTS[each.name]),
        )
        for each in fields(Common)
    ]


def _hidden(annotation: Any) -> Any:
    assert get_origin(annotation) is Annotated  # noqa: S101  (fields of Common are)
    kind, option = get_args(annotation)
    option = copy.copy(option)
    option.hidden = True
    return Annotated[kind, option]


def group(help_text: str, *, add_completion: bool = False) -> typer.Typer:
    """A group of commands; without one named, its help is shown. The outermost one may offer completion by a shell."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=add_completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def add_command(app: typer.Typer, name: str, work: Work, used: Collection[str] = RESULT) -> None:
    """Make `work` the command `name` of `app`, which uses these fields of `Common`."""
    common_parameters = _common_parameters(used)

    @functools.wraps(work)
    def command(**given: Any) -> None:
        import asyncio

        common = Common(**{parameter.name: given.pop(parameter.name) for parameter in common_parameters})
        try:
            with Output.opened(common) as output:
                code = asyncio.run(work(output, **given))
        except CommandFailed as failed:
            typer.echo(f"metergate: {failed}", err=True)
            code = failed.code
        if code:
            raise typer.Exit(code)

    own = list(inspect.signature(work).parameters.values())[1:]
    parameters = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *common_parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name)(command)


def add_call(app: typer.Typer, name: str, call: Call, connect: Connect) -> None:
    """Make `call` the command `name` of `app`: connected, and its result shown."""

    @functools.wraps(call)
    async def work(output: Output, **given: Any) -> None:
        from billing.cli.answers import explained

        with explained():
            async with connect(output) as client:
                shown = await call(client, **given)
        output.show(shown)

    add_command(app, name, work, REMOTE)
