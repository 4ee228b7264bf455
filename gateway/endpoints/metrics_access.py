"""Access to the metrics: on METRICS_ADDR without a key, on the public port with the admin key.

They show what providers cost and what accounts are charged. The supervisor binds METRICS_ADDR once and every worker
accepts there, as on the gateway's own address: each shows the sum over all, and a worker's death does not close the
port. Nothing else is served there.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError
from gateway.server.listening import bind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from aiohttp import web

    from gateway.metrics.registry import Metrics

# Tells a worker the number of the socket on METRICS_ADDR that its supervisor has opened.
METRICS_FD_VARIABLE: Final = "METERGATE_METRICS_FD"
PATH: Final = "/metrics"
BACKLOG: Final = 16
KEEPALIVE_S: Final = 75.0


class MetricsAddressTaken(MetergateError):
    """METRICS_ADDR can't be listened on; the message says why."""


def shown(metrics: Metrics, request: web.Request) -> web.Response:
    """Return the metrics, summed over the workers, in the format that is asked for."""
    from aiohttp import web  # not for the supervisor, which only listens

    body, content_type = metrics.render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


@contextmanager
def listener_on(address: str | None, optional: bool, note: Callable[[str], None]) -> Iterator[socket.socket | None]:
    """Open the socket on METRICS_ADDR, in a supervisor; None without an address, or where an `optional` one is
    in use. Raises `MetricsAddressTaken`."""
    if address is None:
        yield None
        return
    try:
        listener = bind(address)
    except OSError as error:
        if not optional:
            raise MetricsAddressTaken(f"METRICS_ADDR: {error.strerror}.") from error
        note(f"{address} is in use: metrics are shown on the gateway's own address alone, with the admin key.")
        yield None
        return
    with listener:
        yield listener


def inherited_listener(environ: Mapping[str, str]) -> socket.socket | None:
    """Return the socket on METRICS_ADDR, in a worker whose supervisor has opened one."""
    number = environ.get(METRICS_FD_VARIABLE)
    if not number:
        return None
    listener = socket.socket(fileno=int(number))
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def metrics_served(metrics: Metrics, listener: socket.socket | None) -> AsyncIterator[None]:
    """Serve the metrics on their own listener, where there is one, until the context ends."""
    if listener is None:
        yield
        return
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return shown(metrics, request)

    app = web.Application(client_max_size=1)
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_S, handle_signals=False)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
