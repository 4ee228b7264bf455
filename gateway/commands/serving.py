"""`metergate up` and `metergate serve`."""

import os
from typing import Annotated

import typer

from billing.cli import Output, add_command
from gateway.commands.store_options import refuse_api_url

MAX_WORKERS = 64
Workers = Annotated[int, typer.Option(min=1, max=MAX_WORKERS, metavar="N", help="Processes that serve.")]


def add_serving(app: typer.Typer) -> None:
    """Add both."""
    add_command(app, "up", up)
    add_command(app, "serve", serve)


async def up(output: Output, workers: Workers = 1) -> int:
    """Run everything on this machine.

    Postgres, Redis and the gateway; the first start makes an account and a key. Both servers keep their data in
    METERGATE_DATA_DIR (.metergate). DATABASE_URL or REDIS_URL, where set, is used instead of the own one. Ctrl-C stops
    everything. Even with --quiet the first key is printed: it can't be had again.
    """
    refuse_api_url(output)
    from gateway.commands import up as orchestration
    from gateway.commands.stores import explained_failures
    from gateway.config.settings import load_settings

    with explained_failures():
        return await orchestration.up(load_settings(os.environ, mode="up"), os.environ, output, workers=workers)


async def serve(
    output: Output,
    workers: Workers = 1,
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the database to this version first.")] = False,
) -> int:
    """Run the gateway on given stores.

    DATABASE_URL and REDIS_URL name them. A database that lacks migrations is refused, unless --migrate applies them.
    """
    refuse_api_url(output)
    from gateway.commands import up as orchestration
    from gateway.commands.stores import explained_failures
    from gateway.config.settings import load_settings

    with explained_failures():
        settings = load_settings(os.environ, mode="serve")
        return await orchestration.serve(settings, os.environ, output, workers=workers, migrate_first=migrate)
