"""What tests of the server's edge share: a server on loopback, clients that speak bytes, both event loops.

`on_both_loops` turns a coroutine into a test that runs on asyncio's own loop and on uvloop, there also without the
front, and that fails where a task is left behind or an exception reached nobody. `behind_the_front` runs it without the
front alone: what it looks at is aiohttp's part of the edge; `with_the_front` what it looks at is the front.
"""

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from aiohttp import web

from billing.api.requests import read_bounded
from gateway.dialects.declarations import Endpoint
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.dialects.registry import Dialects
from gateway.server.connection import EdgeProtocol
from gateway.server.edge import EdgeRunner, EdgeServer, route_of
from gateway.server.exchange import BadBody, BodyTooLarge, Exchange
from gateway.server.guard import EdgeRules
from gateway.server.listening import bind
from gateway.server.plain import PlainRunner, expected
from tests.support.edge_clients import BOUND_S, METERED, Client, until

LIMIT_BYTES = 1 << 20
Serve = Callable[[Exchange], Coroutine[Any, Any, None]]
BEHIND = " behind the front"
logger = logging.getLogger(__name__)
LOOPS = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
# Whether edges are made with a front where nothing else is said.
_with_front = contextvars.ContextVar("with_front", default=True)


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """See above."""
    return _on_loops(test, (*LOOPS, "uvloop" + BEHIND))


def behind_the_front(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """See above."""
    return _on_loops(test, [loop + BEHIND for loop in LOOPS])


def with_the_front(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """See above."""
    return _on_loops(test, LOOPS)


def _on_loops(test: Callable[..., Coroutine[Any, Any, None]], loops: Iterable[str]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(loop: str, **values: Any) -> None:
        lost: list[dict[str, Any]] = []
        front = _with_front.set(not loop.endswith(BEHIND))
        try:
            with asyncio.Runner(loop_factory=LOOPS[loop.removesuffix(BEHIND)]) as runner:
                runner.get_loop().set_exception_handler(lambda _, context: lost.append(context))
                runner.run(_alone(asyncio.wait_for(test(**values), BOUND_S)))
        finally:
            _with_front.reset(front)
        assert lost == []

    taken = inspect.signature(test)
    own = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = taken.replace(parameters=[own, *taken.parameters.values()])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop", loops)(run)
    return marked


async def _alone(work: Coroutine[Any, Any, None]) -> None:
    await work
    await until(lambda: len(asyncio.all_tasks()) == 1)


class InTasks:
    """Serves each request by a coroutine; one that is begun in a task of its own, which is cancelled as its client
    leaves."""

    def __init__(self, serve: Serve) -> None:
        self.handle = serve

    def begin(self, exchange: Exchange, on_over: Callable[[], None]) -> "_Task":
        return _Task(self.handle, exchange, on_over)


class _Task:
    def __init__(self, serve: Serve, exchange: Exchange, on_over: Callable[[], None]) -> None:
        self._on_over = on_over
        self._task = asyncio.create_task(self._run(serve, exchange))
        self._task.add_done_callback(lambda _: self._end())  # also of one that was cancelled before its first step

    def left(self) -> None:
        self._task.cancel()

    async def _run(self, serve: Serve, exchange: Exchange) -> None:
        try:
            await serve(exchange)
            await exchange.flushed()
        except Exception:
            logger.exception("a call failed")
        finally:
            self._end()

    def _end(self) -> None:
        on_over, self._on_over = self._on_over, lambda: None
        on_over()


@dataclass
class Edge:
    """A server. `ways` tells by which way each metered request came: the edge's own or the application's."""

    runner: web.AppRunner
    port: int
    ways: list[str] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    @property
    def server(self) -> EdgeServer:
        assert isinstance(self.runner.server, EdgeServer)
        return self.runner.server

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def empty(self) -> None:
        """No connection is left."""
        server = self.runner.server
        assert server is not None
        await until(lambda: not server.connections)


class OneEndpoint(OpenAIDialect):
    """A dialect that has METERED alone."""

    endpoints = (Endpoint(METERED, METERED),)  # type: ignore[misc]


DIALECTS = Dialects([OneEndpoint()])


@asynccontextmanager
async def edge(
    serve: Serve, *, plain: bool = False, rules: EdgeRules | None = None, **options: Any
) -> AsyncIterator[Edge]:
    """Serve METERED by `serve` in front of an application that has `/plain`, `/echo` and pages; `plain` without
    private parts of aiohttp."""
    ways: list[str] = []

    def by(way: str) -> Serve:
        async def served(call: Exchange) -> None:
            ways.append(way)
            await serve(call)

        return served

    app = web.Application(client_max_size=LIMIT_BYTES)
    app.router.add_get("/plain", _plain)
    app.router.add_post("/echo", _echo)
    app.router.add_route("*", "/console/{of}", _page)
    app.router.add_post(METERED, route_of(by("application"), DIALECTS.find, _plain), expect_handler=expected)
    options = {"access_log": None, "shutdown_timeout": 1.0, **options}
    runner = (
        PlainRunner(app, rules or EdgeRules(), **options)
        if plain
        else EdgeRunner(app, InTasks(by("edge")), DIALECTS.find, rules, front=_with_front.get(), **options)
    )
    await runner.setup()
    listener = bind("127.0.0.1:0")
    await runner.site(listener).start()
    made = Edge(runner, listener.getsockname()[1], ways)
    try:
        yield made
    finally:
        for client in made.clients:
            await client.leave()
        await runner.cleanup()


async def _plain(request: web.Request) -> web.Response:
    return web.Response(body=b"plain " + request.query_string.encode())


async def _page(request: web.Request) -> web.Response:
    """Say at which port of which server this client is: a server is known by its connections' limit."""
    protocol = request.protocol
    assert isinstance(protocol, EdgeProtocol)
    port = request.transport.get_extra_info("peername")[1]  # type: ignore[union-attr]
    told = f"{protocol._rules.max_connections} {port} ".encode()
    return web.Response(body=told + await read_bounded(request, LIMIT_BYTES))


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=b"application " + await read_bounded(request, LIMIT_BYTES))


async def echo(call: Exchange) -> None:
    """Answers with what it got."""
    try:
        body = await call.read(LIMIT_BYTES)
    except BodyTooLarge:
        return call.answer(413, b"", b"too large")
    except BadBody as error:
        return call.answer(400, b"", str(error).encode())
    return call.answer(200, b"X-Endpoint: %b\r\n" % call.match.endpoint.path.encode(), b"metered " + body)


async def paced(call: Exchange, data: bytes) -> None:
    """Write a piece, and wait until the client can take another."""
    if not call.put(data):
        await call.flushed()


async def streamed(call: Exchange) -> None:
    """Answers with what it got, piece by piece."""
    body = await call.read(LIMIT_BYTES)
    call.begin(200, b"Content-Type: text/event-stream\r\n")
    for start in range(0, len(body), 3):
        await paced(call, body[start : start + 3])
        await asyncio.sleep(0)
    call.finish(b"")


@dataclass
class Gate:
    """A call that stops where the test wants it: `reached` when it is there, `opened` lets it go on; what became of it
    is in `ended`: `answered`, `cancelled`, or the exception's name."""

    work: Callable[[Exchange, "Gate"], Awaitable[None]]
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[str] = field(default_factory=list)

    async def __call__(self, call: Exchange) -> None:
        try:
            await self.work(call, self)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        except Exception as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("answered")

    async def wait(self) -> None:
        self.reached.set()
        await self.opened.wait()
