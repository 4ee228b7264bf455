"""All commands put together, and the entry point.

This file owns the outermost edge: whatever happens, a person reads one sentence, never a traceback.
"""

import gc
import sys
from typing import Annotated, Final

import typer

from billing.cli import REFUSED, outermost_group

DISTRIBUTION: Final = "metergate"
# Every command by the heading that it stands below, and what adds it.
SECTIONS: Final = {
    "Run a gateway": {
        **dict.fromkeys(("up", "serve"), "gateway.commands.serving:add_serving"),
        "reload": "gateway.commands.reload:add_reload",
        "init": "gateway.commands.init:add_init",
        **dict.fromkeys(("doctor", "migrate"), "gateway.commands.upkeep:add_upkeep"),
        **dict.fromkeys(("backup", "restore"), "gateway.commands.backup:add_backup"),
        "reconcile": "gateway.commands.upkeep:add_upkeep",
        "ledger": "gateway.commands.upkeep:add_ledger",
        "export": "gateway.commands.upkeep:add_export",
        "body-logs": "gateway.commands.body_logs:add_body_logs",
    },
    "Look after accounts": {
        "operator": "gateway.commands.connect:add_operator",
    },
    "Your own account": {
        "connect": "gateway.commands.tools.command:add_connect",
        "auth": "gateway.commands.connect:add_auth",
        "keys": "gateway.commands.connect:add_keys",
        "requests": "gateway.commands.connect:add_requests",
        "explain": "gateway.commands.upkeep:add_upkeep",
        "usage": "gateway.commands.connect:add_usage",
        "billing": "gateway.commands.connect:add_billing",
        "org": "gateway.commands.connect:add_orgs",
        "webhooks": "gateway.commands.connect:add_webhooks",
    },
    "Scripts": {
        "run": "billing.cli.batch:add_run",
    },
}
# Objects more before Python looks for garbage: hardly any of what a command imports and reads becomes some before it
# ends, and looking at it all takes a tenth of a second of those that read the price table.
COLLECT_AFTER: Final = 100_000


def make_app() -> typer.Typer:
    """Return the command with every command below it."""
    app = outermost_group(
        "Metergate: a metering gateway for LLM traffic. Settings are environment variables: docs/configuration.md.",
        SECTIONS,
    )
    app.callback()(_root)
    return app


def main() -> int:
    """Run the command that the process was started with; its exit code."""
    import logging

    gc.set_threshold(COLLECT_AFTER)
    logging.basicConfig(level=logging.ERROR, format="metergate: %(message)s", stream=sys.stderr)
    try:
        make_app()(prog_name=DISTRIBUTION)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else REFUSED
    except Exception as error:  # the outermost edge
        sys.stderr.write(_fault(error))
        return REFUSED
    finally:
        gc.freeze()  # what is left ends with the process: Python would look through all of it once more, for 50 ms
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
    """Return a sentence about a fault of Metergate, with where it is; not its text, which could hold a secret."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    return f"metergate: this is a fault in metergate, please report it: {type(error).__name__} at {where}\n"
