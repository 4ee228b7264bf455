"""`metergate up` and `metergate serve`."""

import os
from typing import Annotated, Final

import typer

from billing.cli import Output, add_command
from gateway.commands.store_options import refuse_api_url

MAX_WORKERS = 64
LOG_FORMAT: Final = "METERGATE_LOG_FORMAT"
LogFormat = Annotated[
    str | None,
    typer.Option("--log-format", metavar="text|json", help="How logs are written, instead of METERGATE_LOG_FORMAT."),
]
Workers = Annotated[int, typer.Option(min=1, max=MAX_WORKERS, metavar="N", help="Processes that serve.")]


def add_serving(app: typer.Typer) -> None:
    """Add both."""
    add_command(app, "up", up)
    add_command(app, "serve", serve)


def _environment(output: Output, log_format: str | None) -> dict[str, str]:
    """Return the settings; from here on what is said is JSON, where logs are."""
    environ = {**os.environ, **({} if log_format is None else {LOG_FORMAT: log_format})}
    if environ.get(LOG_FORMAT) == "json":
        from billing.logs import write_json

        write_json()
        output.log_notes()
    return environ


async def up(output: Output, workers: Workers = 1, log_format: LogFormat = None) -> int:
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
        environ = _environment(output, log_format)
        return await orchestration.up(load_settings(environ, mode="up"), environ, output, workers=workers)


async def serve(
    output: Output,
    workers: Workers = 1,
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the database to this version first.")] = False,
    log_format: LogFormat = None,
) -> int:
    """Run the gateway on given stores.

    DATABASE_URL and REDIS_URL name them. A database that lacks migrations is refused, unless --migrate applies them.
    """
    refuse_api_url(output)
    from gateway.commands import up as orchestration
    from gateway.commands.stores import explained_failures
    from gateway.config.settings import load_settings

    with explained_failures():
        environ = _environment(output, log_format)
        settings = load_settings(environ, mode="serve")
        return await orchestration.serve(settings, environ, output, workers=workers, migrate_first=migrate)
