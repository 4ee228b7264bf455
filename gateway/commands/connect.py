"""How operator commands reach the billing API: one client, two ways.

With --api-url or METERGATE_API_URL over HTTP, with the admin key. Without, the API itself is served in this process, on
the stores (`gateway.commands.direct`): the same calls, checks and audit either way.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from billing.cli import USAGE, CommandFailed, Connect, Output

if TYPE_CHECKING:
    from billing.client import BillingClient
    from gateway.config.environment import Environment
    from gateway.config.secret import Secret


def connector(environ: Mapping[str, str]) -> Connect:
    """The way to the billing API for an environment and a command's options."""

    @asynccontextmanager
    async def connect(output: Output) -> AsyncIterator["BillingClient"]:
        from gateway.commands.misuse import explained_misuse
        from gateway.config.environment import command_environment

        with explained_misuse():
            environment = command_environment(environ)
            url = output.common.api_url or environment.api_url
            admin_key = None if url is None else _admin_key(environment, output)
        if url is not None and admin_key is not None:
            async with _http(url, admin_key, output) as client:
                yield client
            return
        from gateway.commands.direct import direct
        from gateway.commands.failures import explained_failures

        with explained_failures():
            async with direct(environ, environment, output) as client:
                yield client

    return connect


@asynccontextmanager
async def _http(url: str, admin_key: "Secret", output: Output) -> AsyncIterator["BillingClient"]:
    from billing.client import BillingClient

    try:
        client = BillingClient(url, admin_key=admin_key.reveal(), timeout_s=output.common.timeout_s)
    except ValueError as error:
        raise CommandFailed(f"--api-url or METERGATE_API_URL: {error}.", USAGE) from error
    async with client:
        yield client


def _admin_key(environment: "Environment", output: Output) -> "Secret":
    from gateway.commands.admin_key import find_admin_key, read_key_file

    if output.common.token_file is not None:
        return read_key_file(output.common.token_file)
    key = environment.admin_api_key or find_admin_key(environment.data_dir)
    if key is None:
        raise CommandFailed(
            "There is no admin key: set ADMIN_API_KEY, or name a file that holds it with --token-file.", USAGE
        )
    return key
