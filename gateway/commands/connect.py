"""How operator commands reach the billing API: two ways, with the same calls, checks and audit. And where commands for
people find a gateway, a token and their files.

Operators: over HTTP, with the admin key: where --api-url or METERGATE_API_URL says, else, unless DATABASE_URL names a
database, at the `metergate up` that runs on the data folder. Else the API is served in this process, on the stores, at
a private socket and with an admin key of the moment.
"""

import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from billing.cli import USAGE, CommandFailed, Connect, Output
from billing.cli.operator import ADDERS, operator_app

if TYPE_CHECKING:
    from billing.api.services import Services
    from billing.cli.session import FindSession, Session
    from billing.client.calls import BillingCalls
    from gateway.commands.data_folder import GatewayAccess
    from gateway.config.environment import Environment
    from gateway.config.secret import Secret

# Most of a token: the billing API reads no longer ones.
TOKEN_BYTES: Final = 8192
# What the API in this process is called; the connection goes to its socket.
OWN_URL: Final = "http://localhost"


def add_operator(app: typer.Typer) -> None:
    """Add the group `operator`, with the commands on the price file and on Stripe, which need no gateway."""
    here = {"price": "gateway.commands.prices:add_prices", "stripe": "gateway.commands.stripe:add_stripe"}
    adders = {**ADDERS, **here}
    app.add_typer(operator_app(connector(os.environ), adders), name="operator")


def _of_people(adder: str) -> Callable[[typer.Typer], None]:
    """Return what adds commands of people to a group, by the `module:function` that does so, loaded when called."""

    def add(app: typer.Typer) -> None:
        module, _, function = adder.partition(":")
        getattr(import_module(module), function)(app, finder(os.environ))

    return add


add_auth = _of_people("billing.cli.auth:add_auth")
add_keys = _of_people("billing.cli.keys:add_own_keys")
add_orgs = _of_people("billing.cli.orgs:add_orgs")
add_requests = _of_people("billing.cli.usage:add_requests")
add_usage = _of_people("billing.cli.usage:add_usage")
add_billing = _of_people("billing.cli.billing:add_billing")
add_webhooks = _of_people("billing.cli.webhooks:add_webhooks")


def finder(environ: Mapping[str, str]) -> "FindSession":
    """Return what says where a command for people works, for an environment and the command's options."""

    def find(output: Output) -> "Session":
        from billing.cli.session import Session, TokenFiles, auth_folder
        from gateway.commands.data_folder import explained_misuse, find_own_gateway, read_key_file
        from gateway.config.environment import command_environment

        with explained_misuse():
            environment, file = command_environment(environ), output.common.token_file
            token = environment.api_token if file is None else read_key_file(file, TOKEN_BYTES)

        def own_url() -> str | None:
            with explained_misuse():
                own = find_own_gateway(environment.data_dir)
            return None if own is None else own.url

        return Session(
            files=TokenFiles(auth_folder(environ)),
            given_url=output.common.api_url or environment.api_url,
            own_url=own_url,
            given_token=None if token is None else token.reveal(),
            open=partial(_for_people, output.common.timeout_s),
            environ=environ,
            timeout_s=output.common.timeout_s,
            shows_tables=output.shows_tables,
        )

    return find


def _for_people(timeout_s: float, url: str, token: str | None) -> "BillingCalls":
    from billing.cli.client import CommandClient

    try:
        return CommandClient(url, api_key=token, timeout_s=timeout_s)
    except ValueError as error:
        raise CommandFailed(f"--api-url or METERGATE_API_URL: {error}.", USAGE) from error


def connector(environ: Mapping[str, str]) -> Connect:
    """Return the way to the billing API for an environment and a command's options."""

    @asynccontextmanager
    async def connect(output: Output) -> AsyncIterator["BillingCalls"]:
        from gateway.commands.data_folder import explained_misuse
        from gateway.config.environment import command_environment

        with explained_misuse():
            environment = command_environment(environ)
            gateway = _gateway(environment, output)
        if gateway is not None:
            yield _http(gateway, output)
            return
        from gateway.commands.stores import explained_failures

        with explained_failures():
            async with _direct(environ, environment, output) as client:
                yield client

    return connect


def _gateway(environment: "Environment", output: Output) -> "GatewayAccess | None":
    """Return which gateway to call, and with which key; None: none, the stores are used. Raises `BadKeyFile`."""
    from gateway.commands.data_folder import GatewayAccess, find_own_gateway

    url = output.common.api_url or environment.api_url
    if url is not None:
        return GatewayAccess(url, _admin_key(environment, output))
    return find_own_gateway(environment.data_dir) if environment.database_url is None else None


def _http(gateway: "GatewayAccess", output: Output) -> "BillingCalls":
    from billing.cli.client import CommandClient

    try:
        return CommandClient(gateway.url, admin_key=gateway.admin_key.reveal(), timeout_s=output.common.timeout_s)
    except ValueError as error:
        raise CommandFailed(f"--api-url or METERGATE_API_URL: {error}.", USAGE) from error


def _admin_key(environment: "Environment", output: Output) -> "Secret":
    from gateway.commands.data_folder import find_admin_key, read_key_file

    if output.common.token_file is not None:
        return read_key_file(output.common.token_file)
    key = environment.admin_api_key or find_admin_key(environment.data_dir)
    if key is None:
        raise CommandFailed(
            "There is no admin key: set ADMIN_API_KEY, or name a file that holds it with --token-file.", USAGE
        )
    return key


@asynccontextmanager
async def _direct(
    environ: Mapping[str, str], environment: "Environment", output: Output
) -> AsyncIterator["BillingCalls"]:
    """Give a client of the API in this process. Raises what `explained_failures` explains."""
    from billing.client.client import Client
    from gateway.commands.data_folder import find_admin_key
    from gateway.commands.stores import open_stores, ready_schema
    from gateway.config.secret import Secret
    from gateway.config.settings import load_settings
    from gateway.runtime.wiring import open_runtime

    # The gateways' own where it is known: links by which operators sign in there are made with it.
    known = environment.admin_api_key or find_admin_key(environment.data_dir)
    settings = load_settings(environ, mode="command")
    settings = replace(settings, admin_api_key=known or Secret(secrets.token_urlsafe()))
    async with open_stores(environment, output) as stores:
        await ready_schema(stores)
        async with (
            open_runtime(
                settings, database_url=stores.database_url, redis_url=stores.redis_url, embedded=stores.embedded
            ) as runtime,
            _served(runtime.services) as socket,
            Client(
                OWN_URL, admin_key=runtime.admin_api_key, timeout_s=output.common.timeout_s, unix_socket=str(socket)
            ) as client,
            _comparing(runtime.services),
        ):
            yield client


@asynccontextmanager
async def _comparing(services: "Services") -> AsyncIterator[None]:
    """Make the comparison with the payment provider that the command asks for: it may be that no gateway runs."""
    import asyncio

    payments = services.payments
    if payments is None:
        yield
        return
    work = asyncio.create_task(payments.comparisons.run_when_asked())
    try:
        yield
        if payments.comparisons.is_asked:
            await work
    finally:
        work.cancel()


@asynccontextmanager
async def _served(services: "Services") -> AsyncIterator[Path]:
    """Serve the billing API on a socket in a folder that only this user can enter."""
    from aiohttp import web

    from billing.api.application import setup

    app = web.Application(client_max_size=services.max_body_bytes)
    setup(app, services)
    with tempfile.TemporaryDirectory(prefix="metergate-") as folder:
        socket = Path(folder) / "api.sock"
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(socket)).start()
            yield socket
        finally:
            await runner.cleanup()
