"""Heads that are begun and not ended: what all of them keep together."""

import asyncio
import json
import socket

import pytest

from gateway.server.exchange import Exchange
from gateway.server.guard import MAX_HEAD_BYTES, EdgeRules
from gateway.server.heads import SHED_SHARE, Heads
from tests.support.edge_clients import METERED, Client, get, post, until
from tests.support.edge_servers import Edge, Gate, echo, edge, on_both_loops

LIMIT_BYTES = 100_000


class Begun:
    """A connection that keeps a head."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.ended = False

    def end_head(self) -> None:
        self.ended = True
        self.heads.drop(self)


def test_the_largest_end_and_a_share_of_them_at_once():
    heads = Heads(1_000_000)
    small = [Begun(heads) for _ in range(10 * SHED_SHARE)]
    large = [Begun(heads) for _ in range(90)]
    for each in small:
        heads.add(each, 100)
    for each in large * 2:
        heads.add(each, 5_500)
        assert heads.size_bytes <= 1_000_000
    assert not any(each.ended for each in small)
    ended = sum(each.ended for each in large)
    assert ended % (1 + len(small) // SHED_SHARE) in (0, 1)
    assert ended > 0
    for each in small + large:
        heads.drop(each)
        heads.drop(each)
    assert heads.size_bytes == 0


def begun_head(size_bytes: int) -> bytes:
    lines = b"".join(b"X-%d: %b\r\n" % (number, b"y" * 4_000) for number in range(size_bytes // 4_000))
    return b"GET /plain HTTP/1.1\r\nHost: here\r\n" + lines


async def begin(served: Edge, size_bytes: int) -> Client:
    client, before = await served.connect(), len(served.server.shared.heads._sizes)
    client.send(begun_head(size_bytes))
    await until(
        lambda: len(served.server.shared.heads._sizes) != before or served.server.shared.heads.size_bytes > LIMIT_BYTES
    )
    return client


@on_both_loops
async def test_heads_without_an_end_take_bounded_memory_and_small_ones_are_served():
    async with edge(echo, rules=EdgeRules(head_bytes_in_flight=LIMIT_BYTES, head_timeout_s=3_600.0)) as served:
        heads = served.server.shared.heads
        honest = await served.connect()
        honest.send(get()[:-2])
        hostile = [await begin(served, 40_000) for _ in range(2)]
        largest = await served.connect()
        largest.send(begun_head(44_000))
        seen = await largest.answer()
        assert (seen.status, seen.last) == (503, True)
        assert json.loads(seen.body)["error"]["code"] == "temporarily_unavailable"
        await largest.closed()
        assert 0 < heads.size_bytes <= LIMIT_BYTES
        honest.send(b"\r\n")
        assert (await honest.answer()).body == b"plain "
        for client in hostile:  # within the bound they may end what they have begun
            client.send(b"\r\n")
            assert (await client.answer()).status == 200
            client.send(get()[:9])
        await until(lambda: heads.size_bytes == 18)
        connection = next(iter(heads._sizes))
        connection.end_head()
        assert connection._parser is None  # type: ignore[attr-defined]  # at once: it has what was refused
        for client in hostile:
            await client.leave()
        await until(lambda: heads.size_bytes == 0)


@on_both_loops
async def test_a_head_that_came_with_the_connection_counts_too():
    """Before aiohttp's loop has begun: it may last no longer than another one, and what follows it is served."""
    loop = asyncio.get_running_loop()
    async with edge(echo, rules=EdgeRules(head_timeout_s=30.0)) as served:
        heads, sent = served.server.shared.heads, get()[:-2]
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(sent)  # while the server's loop, which is this one, stands still
            client.setblocking(False)
            await until(lambda: heads.size_bytes == len(sent))
            (connection,) = heads._sizes
            assert connection._next_keepalive_close_time <= loop.time() + 30.0  # type: ignore[attr-defined]
            await loop.sock_sendall(client, b"\r\n")
            assert b"200 OK" in await loop.sock_recv(client, 100)
        assert heads.size_bytes == 0


@pytest.mark.parametrize("path", [METERED, "/v1/meter%65d"])
@on_both_loops
async def test_a_head_that_begins_behind_a_running_request_counts_too(path):
    gate = Gate(_stop_then_echo)
    async with edge(gate) as served:
        heads, client = served.server.shared.heads, await served.connect()
        client.send(post(b"x", path=path))
        await gate.reached.wait()
        sent = get()[:-2]
        client.send(sent)
        await until(lambda: heads.size_bytes == len(sent))
        gate.opened.set()
        assert (await client.answer()).body == b"metered x"
        client.send(b"\r\n")
        assert (await client.answer()).body == b"plain "
        assert heads.size_bytes == 0
        gate.opened.clear()
        gate.reached.clear()
        # with a line that keeps it from the front, which takes connections back whenever they rest:
        client.send(post(b"x", "TE: trailers", path=path))
        await gate.reached.wait()
        client.send(begun_head(MAX_HEAD_BYTES + 8_000))
        await until(lambda: all(each._deaf for each in served.server._connections))  # type: ignore[attr-defined]
        assert heads.size_bytes == 0
        gate.opened.set()
        assert (await client.answer()).body == b"metered x"
        await client.closed()
        await served.empty()


async def _stop_then_echo(exchange: Exchange, gate: Gate) -> None:
    await gate.wait()
    await echo(exchange)
