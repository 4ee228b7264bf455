"""The billing API in a command's own process: on the stores, at a private socket, with an admin key of the moment."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from aiohttp import web

from billing.cli import Output
from billing.client import BillingClient
from gateway.commands.stores import open_stores, ready_schema
from gateway.config.environment import Environment
from gateway.config.secret import Secret
from gateway.config.settings import load_settings
from gateway.runtime import open_runtime

OWN_URL: Final = "http://localhost"
"""What the API in this process is called; the connection goes to its socket."""


@asynccontextmanager
async def direct(environ: Mapping[str, str], environment: Environment, output: Output) -> AsyncIterator[BillingClient]:
    """A client of it for as long as the context is open. Raises what `explained_failures` explains."""
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
