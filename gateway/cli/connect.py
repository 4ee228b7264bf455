"""How operator commands reach the billing API: one client, two ways.

With --api-url or METERGATE_API_URL over HTTP, with the admin key. Without, the API itself is served in this process, on
the stores, at a private socket and with an admin key made for the moment: the same calls, checks and audit either way.
"""

import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from aiohttp import web

from billing.cli import USAGE, CommandFailed, Connect, Output
from billing.client import BillingClient
from gateway.admin_key import find_admin_key, read_key_file
from gateway.config.environment import Environment
from gateway.config.secret import Secret
from gateway.failures import explained_failures
from gateway.places import command_environment, open_stores, ready_schema
from gateway.runtime import open_runtime
from gateway.settings import load_settings

OWN_URL: Final = "http://localhost"
"""What the API in this process is called; the connection goes to its socket."""


def connector(environ: Mapping[str, str]) -> Connect:
    """The way to the billing API for an environment and a command's options."""

    @asynccontextmanager
    async def connect(output: Output) -> AsyncIterator[BillingClient]:
        with explained_failures():
            environment = command_environment(environ)
            url = output.common.api_url or environment.api_url
            way = _direct(environ, environment, output) if url is None else _http(url, environment, output)
            async with way as client:
                yield client

    return connect


@asynccontextmanager
async def _http(url: str, environment: Environment, output: Output) -> AsyncIterator[BillingClient]:
    admin_key = _admin_key(environment, output).reveal()
    try:
        client = BillingClient(url, admin_key=admin_key, timeout_s=output.common.timeout_s)
    except ValueError as error:
        raise CommandFailed(f"--api-url or METERGATE_API_URL: {error}.", USAGE) from error
    async with client:
        yield client


def _admin_key(environment: Environment, output: Output) -> Secret:
    if output.common.token_file is not None:
        return read_key_file(output.common.token_file)
    key = environment.admin_api_key or find_admin_key(environment.data_dir)
    if key is None:
        raise CommandFailed(
            "There is no admin key: set ADMIN_API_KEY, or name a file that holds it with --token-file.", USAGE
        )
    return key


@asynccontextmanager
async def _direct(environ: Mapping[str, str], environment: Environment, output: Output) -> AsyncIterator[BillingClient]:
    settings = replace(load_settings(environ, mode="command"), admin_api_key=Secret(secrets.token_urlsafe()))
    async with open_stores(environment, output) as stores:
        await ready_schema(stores)
        async with (
            open_runtime(
                settings, database_url=stores.database_url, redis_url=stores.redis_url, embedded=stores.embedded
            ) as runtime,
            _served(runtime.api_app) as socket,
            BillingClient(
                OWN_URL, admin_key=runtime.admin_api_key, timeout_s=output.common.timeout_s, unix_socket=str(socket)
            ) as client,
        ):
            yield client


@asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[Path]:
    """The application on a socket in a folder that only we can enter."""
    with tempfile.TemporaryDirectory(prefix="metergate-") as folder:
        socket = Path(folder) / "api.sock"
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(socket)).start()
            yield socket
        finally:
            await runner.cleanup()
