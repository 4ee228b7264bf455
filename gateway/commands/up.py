"""What `metergate up` and `metergate serve` do: stores, schema, a first account, worker processes, and their end.

This file owns the order: servers before the schema, the schema before workers; at the end workers first, then servers.
A signal before the workers run ends the start in the same order; one while the servers stop changes nothing.
"""

import asyncio
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGUSR2
from typing import Any, Final

from billing.audit import SYSTEM
from billing.cli.output import USAGE, CommandFailed, Output
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.holds.redis.client import RedisClient, refuse_eviction
from billing.identity.encryption import SealBroken
from billing.ledger.leases import ending_leases
from gateway.commands.data_folder import (
    admin_key_file,
    api_url_file,
    ensure_admin_key,
    ensure_service_key,
    first_key_file,
    keep_first_key,
    publish_api_url,
    service_key_file,
    withdraw_api_url,
)
from gateway.commands.first_start import SERVED, Welcome, local_url, make_first_account, ready, serving_lines
from gateway.commands.reload import announced
from gateway.commands.stores import Stores, given_stores, named_store, named_stores, own_stores, require_schema
from gateway.config.defaults import Defaults
from gateway.config.settings import MAIL_CONSOLE_VARIABLE, Settings, warnings
from gateway.endpoints.metrics_access import METRICS_FD_VARIABLE, MetricsAddressTaken, listener_on
from gateway.endpoints.metrics_access import PATH as METRICS_PATH
from gateway.metrics.registry import METRICS_DIR_VARIABLE
from gateway.process.supervisor import EMBEDDED_VARIABLE, Hooks, stop_signals, supervise
from gateway.runtime.encryption import check_encryption
from gateway.server.listening import AddressInUse, address_of, bind

WORKER: Final = (
    sys.executable,
    "-P",
    "-m",
    "gateway.app",
)  # -P: a folder `gateway` where we stand is not ours


async def up(settings: Settings, environ: Mapping[str, str], output: Output, *, workers: int) -> int:
    """Run everything on one machine until a signal; the exit code. Raises what `explained_failures` explains."""
    return await _until_signalled(_up(settings, environ, output, workers), output)


async def serve(
    settings: Settings, environ: Mapping[str, str], output: Output, *, workers: int, migrate_first: bool
) -> int:
    """Run the gateway on given stores until a signal; the exit code. Raises what `explained_failures` explains."""
    return await _until_signalled(_serve(settings, environ, output, workers, migrate_first), output)


async def _up(settings: Settings, environ: Mapping[str, str], output: Output, workers: int) -> int:
    from gateway.runtime.wiring import open_runtime  # all that a worker has: `serve` goes without

    async with own_stores(settings, output) as stores:
        if not stores.embedded:
            await _require_redis(stores.redis_url)
        _check_address(settings)
        output.progress("Bringing the schema up to date ...")
        with named_store(stores.database_url):
            await migrate(stores.database_url)
        await require_seals(stores.database_url, settings)
        admin_key = settings.admin_api_key or ensure_admin_key(settings.data_dir)
        service_key = settings.service_api_key or ensure_service_key(settings.data_dir)
        async with open_runtime(
            replace(settings, admin_api_key=admin_key),
            database_url=stores.database_url,
            redis_url=stores.redis_url,
            embedded=stores.embedded,
        ) as runtime:
            if stores.started_database:  # nobody else can be alive: leases of killed workers are not waited for
                await runtime.engine.end_all_leases()
            first = await make_first_account(runtime)
            link = await runtime.services.browsers.make_link(SYSTEM)
        if first is not None:
            keep_first_key(settings.data_dir, first.key)
            if settings.log_format == "json":  # logs are kept and sent on: no secret is in them
                output.note(f"The key of the first account is in {first_key_file(settings.data_dir)}")
        env = _worker_environment(settings, environ, stores)
        env |= {"ADMIN_API_KEY": admin_key.reveal(), "SERVICE_API_KEY": service_key.reveal()}
        env[MAIL_CONSOLE_VARIABLE] = "1"
        operators = None if settings.admin_api_key else admin_key_file(settings.data_dir)
        services = None if settings.service_api_key else service_key_file(settings.data_dir)
        file, shows_mails = first_key_file(settings.data_dir), settings.smtp_host is None
        made = Welcome(first, file, operators, services, link, shows_mails)
        publishes = operators is not None and stores.own_folder
        return await _supervise(settings, env, workers, output, made, publishes=publishes)


async def _serve(
    settings: Settings, environ: Mapping[str, str], output: Output, workers: int, migrate_first: bool
) -> int:
    database_url, redis_url = given_stores(settings)
    if database_url is None or redis_url is None:
        raise CommandFailed(
            "`metergate serve` needs DATABASE_URL and REDIS_URL; on one machine, `metergate up` brings its own.",
            USAGE,
        )
    stores = named_stores(database_url, redis_url)
    if migrate_first:
        with output.step("The schema is up to date"), named_store(stores.database_url):
            await migrate(stores.database_url)
    else:
        await require_schema(stores.database_url)
    await require_seals(stores.database_url, settings)
    await _require_redis(stores.redis_url)
    if settings.admin_api_key is None:
        output.note("ADMIN_API_KEY is not set: admin calls are refused.")
    if settings.smtp_host is None:
        output.note("SMTP_HOST is not set: no mail is sent, so nobody can verify an address.")
    return await _supervise(settings, _worker_environment(settings, environ, stores), workers, output, SERVED)


async def _supervise(
    settings: Settings,
    env: Mapping[str, str],
    workers: int,
    output: Output,
    welcome: Welcome,
    *,
    publishes: bool = False,
) -> int:
    """Run the workers to their end; with `publishes`, operator commands on the data folder find them meanwhile."""
    _check_request_log(settings)

    def on_ready(address: str) -> None:
        if publishes:
            _publish(settings.data_dir, address, output)
        if settings.log_format == "json" and not output.common.json:
            for line in serving_lines(settings, address, warnings(settings, time.time())):
                output.note(line)
            return
        told, secrets = warnings(settings, time.time()), output.may_show_secrets
        output.show(ready(settings, address, told, welcome=welcome, with_secrets=secrets))

    with (
        _metrics_folder(settings.data_dir) as folder,
        _metrics_listener(settings, output) as metrics,
        announced(settings.data_dir, output.note) as told,
    ):
        if metrics is not None:
            env = {**env, METRICS_FD_VARIABLE: str(metrics.fileno())}
            output.progress(f"Metrics are at http://{address_of(metrics)}{METRICS_PATH}")
        try:
            async with ending_leases(env["DATABASE_URL"]) as end_lease:
                hooks = Hooks(on_ready=on_ready, on_end=end_lease, on_replacing=told.begin, on_replaced=told.end)
                if publishes:
                    hooks = replace(hooks, on_stop=partial(withdraw_api_url, settings.data_dir))
                return await supervise(
                    WORKER,
                    workers=workers,
                    listen=settings.listen_addr,
                    env={**env, METRICS_DIR_VARIABLE: folder},
                    shutdown_grace_s=stopping_s(settings.defaults),
                    pass_fds=() if metrics is None else (metrics.fileno(),),
                    pages=settings.defaults.process.pages_idle_s > 0 and settings.defaults.edge.edge == "guarded",
                    hooks=hooks,
                )
        except AddressInUse as error:
            raise CommandFailed(str(error)) from error
        finally:
            _on_signals(lambda: output.note("Stopping; a moment ..."))
            output.note("The gateway has stopped.")


def _publish(data_dir: Path, address: str, output: Output) -> None:
    try:
        publish_api_url(data_dir, local_url(address))
    except OSError as error:  # operator commands use the stores themselves then
        output.note(
            f"Cannot write {api_url_file(data_dir)}: {error.strerror}. Operator commands take longer without it."
        )


def stopping_s(defaults: Defaults) -> float:
    """Return how long a worker may take to stop: for running answers, then for settling those that it had to cut, and
    for writing what waits. Killed before, it would leave them unpaid."""
    return defaults.process.shutdown_grace_s + defaults.stores.postgres_timeout_s


def _metrics_folder(data_dir: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for what workers count: where the system has such folders, else in the data folder. Raises
    `CommandFailed`."""
    prefix = "metergate-metrics-"
    with suppress(OSError):
        return tempfile.TemporaryDirectory(prefix=prefix)
    try:  # a container's file system may be read-only but for the data folder
        return tempfile.TemporaryDirectory(prefix=prefix, dir=data_dir)
    except OSError as error:
        raise CommandFailed("No folder for temporary files can be written: set TMPDIR to one.") from error


@contextmanager
def _metrics_listener(settings: Settings, output: Output) -> Iterator[socket.socket | None]:
    try:
        with listener_on(settings.metrics_addr, settings.metrics_addr_optional, output.note) as metrics:
            yield metrics
    except MetricsAddressTaken as error:
        raise CommandFailed(str(error)) from error


async def _until_signalled(work: Coroutine[Any, Any, int], output: Output) -> int:
    """Run `work`; a signal that it does not handle itself cancels it, once, and that is a good end."""
    logging.getLogger("gateway").setLevel(logging.WARNING)
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(SIGUSR2, lambda: None)  # there is no worker yet to be replaced

    def stop() -> None:
        _on_signals(lambda: None)
        output.note("Stopping ...")
        task.cancel()

    _on_signals(stop)
    try:
        return await task
    except asyncio.CancelledError:
        return 0


def _on_signals(then: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, then)


async def _require_redis(url: str) -> None:
    client = RedisClient(url)
    try:
        with named_store(url):
            await refuse_eviction(client)
    finally:
        await client.close()


async def require_seals(url: str, settings: Settings) -> None:
    """Refuse a SECRETS_KEY that opens no more what lies there: people could not sign in. Raises `CommandFailed`."""
    database = Database(url, size=1)
    try:
        with named_store(url):
            await check_encryption(database, settings)
    except SealBroken as error:
        raise CommandFailed(str(error)) from error
    finally:
        await database.close()


def _check_address(settings: Settings) -> None:
    """Refuse an address that is in use, before an account is made. Raises `CommandFailed`."""
    try:
        bind(settings.listen_addr).close()
    except OSError as error:
        raise CommandFailed(str(error)) from error


def _check_request_log(settings: Settings) -> None:
    """Refuse a request log that can't be written, once and not from each worker. Raises `CommandFailed`."""
    if settings.request_log is None:
        return
    from gateway.proxy.records import STDOUT, open_log

    if settings.request_log == STDOUT:
        return
    try:
        os.close(open_log(Path(str(settings.request_log))))
    except OSError as error:
        message = f"METERGATE_REQUEST_LOG: {settings.request_log}: {error.strerror}. Name a file that can be written."
        raise CommandFailed(message, USAGE) from error


def _worker_environment(settings: Settings, environ: Mapping[str, str], stores: Stores) -> dict[str, str]:
    return {
        **environ,
        "LISTEN_ADDR": settings.listen_addr,
        "DATABASE_URL": stores.database_url,
        "REDIS_URL": stores.redis_url,
        EMBEDDED_VARIABLE: "1" if stores.embedded else "0",
        "METERGATE_SPOOL_DIR": str(settings.spool_dir or "off"),
        "PAYMENT_PROVIDER": settings.payment_provider or "",  # unset, it is another one for `up` than for workers
    }
