"""All commands put together, and the entry point.

This file owns the outermost edge: whatever happens, a person reads one sentence, never a traceback.
"""

import os
import sys
from typing import Annotated, Final

import typer

from billing.cli import REFUSED, group, operator_app
from gateway.commands.connect import connector
from gateway.commands.init import add_init
from gateway.commands.serving import add_serving
from gateway.commands.upkeep import add_upkeep

DISTRIBUTION: Final = "metergate"


def make_app() -> typer.Typer:
    """The command with everything below it."""
    app = group(
        "Metergate: a metering gateway for LLM traffic. Settings are environment variables: docs/configuration.md.",
        add_completion=True,
    )
    app.callback()(_root)
    add_serving(app)
    add_init(app)
    add_upkeep(app)
    app.add_typer(operator_app(connector(os.environ)), name="operator")
    return app


def main() -> int:
    """Run the command that the process was started with; its exit code."""
    import logging

    logging.basicConfig(level=logging.ERROR, format="metergate: %(message)s", stream=sys.stderr)
    try:
        make_app()(prog_name=DISTRIBUTION)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else REFUSED
    except Exception as error:  # the outermost edge
        sys.stderr.write(_fault(error))
        return REFUSED
    return 0


def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=lambda on: _say(on))
    ] = False,
) -> None:
    pass


def _say(on: bool) -> None:
    if on:
        from importlib.metadata import version

        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


def _fault(error: Exception) -> str:
    """A sentence about a fault of ours, with its place for whoever mends it; its text could hold a secret."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    return f"metergate: this is a fault in metergate, please report it: {type(error).__name__} at {place}\n"
