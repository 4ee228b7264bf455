"""How connections end: clients that leave, bodies that nobody wanted, servers that stop. Nothing is left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.server.connection import EdgeProtocol
from gateway.server.exchange import Exchange
from gateway.server.front import FrontProtocol
from gateway.server.guard import EdgeRules
from tests.support.edge_clients import ENCODED, METERED, Client, Cut, chunked, get, post, until
from tests.support.edge_servers import LIMIT_BYTES, Edge, Gate, behind_the_front, echo, edge, on_both_loops, paced

pytestmark = pytest.mark.slow

PATHS = pytest.mark.parametrize("path", [METERED, ENCODED])
HUGE = 8 << 20


async def _stop_then_echo(exchange: Exchange, gate: Gate) -> None:
    await gate.wait()
    await echo(exchange)


async def _read_slowly(exchange: Exchange, gate: Gate) -> None:
    gate.reached.set()
    await echo(exchange)


async def _stop_in_the_answer(exchange: Exchange, gate: Gate) -> None:
    exchange.begin(200, b"")
    await paced(exchange, b"begun")
    await gate.wait()
    exchange.finish(b"")


async def _write_without_end(exchange: Exchange, gate: Gate) -> None:
    exchange.begin(200, b"")
    gate.reached.set()
    while True:
        await paced(exchange, b"x" * 100_000)


async def _answer_hugely(exchange: Exchange, gate: Gate) -> None:
    exchange.answer(200, b"", b"x" * HUGE)
    gate.reached.set()


Work = Callable[[Exchange, Gate], Awaitable[None]]

STAGES: dict[str, tuple[Work, bytes, set[str]]] = {
    "its body is awaited": (_read_slowly, post(b"whole body")[:-5], {"cancelled"}),
    "a chunk is awaited": (_read_slowly, chunked(b"some")[:-4], {"cancelled"}),
    "it is served": (_stop_then_echo, post(), {"cancelled"}),
    "others wait behind it": (_stop_then_echo, post() + get() + post(), {"cancelled"}),
    "garbage waits behind it": (_stop_then_echo, post() + b"GARBAGE\r\n\r\n", {"cancelled"}),
    "its answer has begun": (_stop_in_the_answer, post(), {"cancelled"}),
    "the client does not read": (_write_without_end, post(), {"cancelled", "ClientGone"}),
    "a whole answer is not read": (_answer_hugely, post(), {"answered"}),
}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("stage", STAGES)
@on_both_loops
async def test_a_client_that_leaves_ends_its_call(stage, reset):
    work, sent, ends = STAGES[stage]
    gate = Gate(work)
    async with edge(gate) as served:
        client = await served.connect()
        head, rest = sent.split(b"\r\n\r\n", 1)
        client.send(head, b"\r\n\r\n")  # apart, for what is spoilt by garbage in its own segment
        await until(lambda: bool(served.ways))
        client.send(rest)
        await gate.reached.wait()
        await client.leave(reset=reset)
        await until(lambda: bool(gate.ended))
        assert set(gate.ended) <= ends
        await served.empty()


@pytest.mark.parametrize("sent", [b"", b"POST /v1", post(b"body")[:-20], get()[:-2], b"\r\n"])
@pytest.mark.parametrize("before", [b"", post(), get()])
@on_both_loops
async def test_a_client_that_leaves_an_idle_connection(before, sent):
    async with edge(echo) as served:
        client = await served.connect()
        client.send(before)
        if before:
            await client.answer()
        client.send(sent)
        await client.leave()
        await served.empty()


@on_both_loops
async def test_a_client_that_leaves_ends_its_call_on_the_application_s_way_too():
    """A request that stood behind another when its turn came."""
    gate = Gate(_stop_in_the_answer)

    async def first_then_gate(exchange):
        await (echo if "X-First" in exchange.headers else gate)(exchange)

    async with edge(first_then_gate) as served:
        client = await served.connect()
        client.send(get(), post())
        await client.answer()
        await gate.reached.wait()
        await client.leave()
        await until(lambda: bool(gate.ended))
        assert (gate.ended, served.ways) == (["cancelled"], ["application"])
        await served.empty()


async def _refuse(exchange: Exchange) -> None:
    """Without a look at the body."""
    if "X-Refuse" in exchange.headers:
        exchange.answer(401, b"", b"refused")
    else:
        await echo(exchange)


@PATHS
@pytest.mark.parametrize("size", [10, 100_000, HUGE])
@on_both_loops
async def test_a_refused_body_is_read_all_the_same(size, path):
    """So that the client, which may send it whole before it reads, sees the answer; the connection goes on."""
    async with edge(_refuse) as served:
        client = await served.connect()
        client.send(post(b"x" * size, "X-Refuse: y", path=path))
        await client.writer.drain()
        seen = await client.answer()
        assert (seen.status, seen.last) == (401, False)
        client.send(post(b"next"), get())
        assert [(await client.answer()).body for _ in range(2)] == [b"metered next", b"plain "]
        client.send(chunked(b"x" * size, lines=("X-Refuse: y",), path=path))
        await client.writer.drain()
        seen = await client.answer()
        assert seen.status == 401
        if seen.last:  # it was refused before its end came, and what is behind that could not be told from it
            await client.closed()
        else:
            client.send(post(b"next"))
            assert (await client.answer()).body == b"metered next"


@PATHS
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@on_both_loops
async def test_a_refusal_is_seen_where_the_connection_ends_with_it(version, path):
    """A close with bytes unread would be a reset, which can take the answer away from the client."""
    async with edge(_refuse) as served:
        for _ in range(3):
            client = await served.connect()
            sending = asyncio.create_task(
                _send_whole(client, post(b"x" * HUGE, "X-Refuse: y", "Connection: close", path=path, version=version))
            )
            assert await sending, "reset while the body was being sent"
            seen = await client.answer()
            assert (seen.status, seen.last) == (401, True)
            await client.closed()
        await served.empty()


async def _send_whole(client: Client, request: bytes) -> bool:
    """Send before anything is read; whether the server took it."""
    try:
        for start in range(0, len(request), 100_000):
            client.send(request[start : start + 100_000])
            await client.writer.drain()
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize("path", [METERED, ENCODED, "/nothing"])
@on_both_loops
async def test_a_refused_body_above_a_limit_of_bytes_ends_its_connection(path):
    async with edge(_refuse, rules=EdgeRules(linger_bytes=1 << 20)) as served:
        client = await served.connect()
        client.send(post(b"x" * HUGE, "X-Refuse: y", path=path))
        assert (await client.answer()).status == (404 if path == "/nothing" else 401)
        await client.closed()
        await served.empty()


@pytest.mark.parametrize("lines", [(), ("Expect: 100-continue",)], ids=["plain", "expects"])
@pytest.mark.parametrize("path", [METERED, ENCODED, "/nothing"])
@on_both_loops
async def test_a_refused_body_that_does_not_come_ends_its_connection(path, lines):
    async with edge(_refuse, rules=EdgeRules(linger_s=0.05)) as served:
        client = await served.connect()
        client.send(post(b"body", "X-Refuse: y", *lines, path=path)[:-4])
        seen = await client.answer()
        assert seen.status == (404 if path == "/nothing" else 401)
        assert seen.interim == ()
        await client.closed()
        await served.empty()


@on_both_loops
async def test_a_client_that_leaves_while_its_refused_body_is_read():
    async with edge(_refuse) as served:
        client = await served.connect()
        client.send(post(b"body", "X-Refuse: y")[:-2])
        assert (await client.answer()).status == 401
        await client.leave()
        await served.empty()


async def _stopping(served: Edge) -> asyncio.Task[None]:
    """A shutdown that has reached the connections."""
    connections = served.server.connections
    task = asyncio.create_task(served.runner.cleanup())
    await until(lambda: all(connection._close or connection._force_close for connection in connections))
    return task


@PATHS
@on_both_loops
async def test_shutdown_lets_a_call_end(path):
    gate = Gate(_stop_then_echo)
    async with edge(gate, shutdown_timeout=10.0) as served:
        idle, fresh, half, client = [await served.connect() for _ in range(4)]
        idle.send(get())
        await idle.answer()
        half.send(post()[:20])
        client.send(post(path=path))
        await gate.reached.wait()
        await until(lambda: len(served.server.connections) == 4)
        stopping = await _stopping(served)
        for other in (idle, fresh):
            await other.closed()
        await half.rest()
        assert not stopping.done()
        gate.opened.set()
        seen = await client.answer()
        assert (seen.body, seen.last) == (b"metered body", True)
        await client.closed()
        await stopping
        assert (gate.ended, served.runner.server) == (["answered"], None)


@on_both_loops
async def test_shutdown_closes_idle_connections_at_once():
    """Before the calls of others have ended."""
    gate = Gate(_stop_then_echo)
    async with edge(gate, shutdown_timeout=10.0) as served:
        idle, after_a_call, client = [await served.connect() for _ in range(3)]
        gate.opened.set()
        after_a_call.send(post())
        await after_a_call.answer()
        gate.opened.clear()
        client.send(post())
        await until(lambda: len(served.ways) == 2)
        stopping = asyncio.create_task(served.runner.cleanup())
        for other in (idle, after_a_call):
            await other.closed()
        assert not stopping.done()
        gate.opened.set()
        await stopping


@on_both_loops
async def test_shutdown_lets_a_body_arrive():
    """A call whose body was on its way when the shutdown began."""
    gate = Gate(_read_slowly)
    async with edge(gate, shutdown_timeout=5.0) as served:
        client = await served.connect()
        client.send(post(b"whole body")[:-5])
        await gate.reached.wait()
        stopping = await _stopping(served)
        client.send(b" body")
        seen = await client.answer()
        assert (seen.body, seen.last) == (b"metered whole body", True)
        await stopping


@on_both_loops
async def test_shutdown_lets_a_stream_end():
    gate = Gate(_stop_in_the_answer)
    async with edge(gate, shutdown_timeout=10.0) as served:
        client = await served.connect()
        client.send(post(), post(b"never answered"))
        await gate.reached.wait()
        stopping = await _stopping(served)
        gate.opened.set()
        assert (await client.answer()).body == b"begun"
        await client.closed()
        await stopping
        assert served.ways == ["edge"]


@PATHS
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@on_both_loops
async def test_shutdown_cancels_what_takes_longer(version, path):
    """What the client has got of a stream can't pass for a whole answer."""
    gate = Gate(_stop_in_the_answer)
    async with edge(gate, shutdown_timeout=0.05) as served:
        client = await served.connect()
        client.send(post(path=path, version=version))
        await gate.reached.wait()
        assert await client.reader.readuntil(b"\r\n\r\n")
        await served.runner.cleanup()
        assert gate.ended == ["cancelled"]
        if version == "1.0":
            with pytest.raises(ConnectionResetError):
                await client.reader.read(-1)
        else:
            assert await client.rest() in (b"", b"5\r\nbegun\r\n")


@on_both_loops
async def test_shutdown_while_nothing_is_read():
    """Neither a client that takes no answer nor a body that does not come holds the server up."""
    gate = Gate(_write_without_end)
    async with edge(gate, shutdown_timeout=0.05) as served:
        deaf, mute = await served.connect(), await served.connect()
        deaf.send(post())
        await gate.reached.wait()
        mute.send(post()[:-2])
        await until(lambda: len(served.ways) == 2)
        await served.runner.cleanup()
        assert gate.ended == ["cancelled"] * 2
        with pytest.raises(Cut):
            await mute.answer()


async def waiting(served: Edge, before: int) -> tuple[Client, EdgeProtocol | FrontProtocol]:
    """A client and its connection, which waits for a request after so many."""
    client = await served.connect()
    for _ in range(before):
        client.send(post(b"earlier"))
        await client.answer()
    await until(lambda: len(served.server.connections) == 1)
    connection: Any = served.server.connections[0]
    await until(lambda: isinstance(connection, FrontProtocol) or connection._waiter is not None)
    return client, connection


@on_both_loops
@pytest.mark.parametrize("before", [0, 1])
async def test_a_request_that_came_as_the_server_stops_is_served(before):
    """The first of a connection, and a later one: taken, but not begun when the server begins to stop."""
    async with edge(echo) as served:
        client, connection = await waiting(served, before)
        connection.data_received(post(b"taken"))
        await connection.shutdown(20.0)
        assert (await client.rest()).startswith(b"HTTP/1.1 200 OK")


@behind_the_front
@pytest.mark.parametrize("before", [0, 1])
async def test_a_client_that_leaves_as_its_request_comes_leaves_no_task(before):
    async with edge(echo) as served:
        client, connection = await waiting(served, before)
        loops = {task for task in asyncio.all_tasks() if "RequestHandler.start" in repr(task)}
        assert len(loops) == 1
        connection.data_received(post(b"taken"))
        connection.connection_lost(None)
        await client.leave()
        await until(lambda: all(task.done() for task in loops))


async def _unread(served: Edge) -> Client:
    """A client that has asked the application for more than it takes."""
    before = served.server.connections
    client = await served.connect()
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(64):
        client.send(post(b"x" * LIMIT_BYTES, path="/echo"))
        if any(each._paused for each in served.server.connections if each not in before):
            break
        await asyncio.sleep(0.005)
    await until(lambda: any(each._paused for each in served.server.connections if each not in before))
    return client


@on_both_loops
async def test_a_client_that_does_not_take_the_application_s_answers_is_cut_off():
    async with edge(_refuse, rules=EdgeRules(client_write_timeout_s=0.2)) as served:
        await _unread(served)
        await served.empty()


@on_both_loops
async def test_clients_that_take_no_answer_keep_nobody_out():
    """Where there are too many connections, theirs end as those do that wait for a request."""
    async with edge(_refuse, rules=EdgeRules(max_connections=3)) as served:
        unread = [await _unread(served) for _ in range(3)]
        client = await served.connect()
        client.send(get())
        assert (await client.answer()).status == 200
        await until(lambda: len(served.server.connections) <= 3)
        for each in unread:
            each.writer.transport.abort()
