"""Trailers of a chunked request: none of them is ever a header of a request that follows it on its connection."""

import json
from contextlib import suppress

import pytest

from gateway.server.connection import EdgeProtocol
from gateway.server.exchange import Exchange
from tests.support.edge_clients import ENCODED, METERED, Client, Cut, chunked, get, post, until
from tests.support.edge_servers import Edge, Gate, behind_the_front, edge, on_both_loops

TRAILER = "Authorization: Bearer mg_of_the_trailer"
ENDS = {
    "one": f"0\r\n{TRAILER}\r\n\r\n",
    "two": f"0\r\nX-First: y\r\n{TRAILER}\r\n\r\n",
    "a coding": "0\r\nContent-Encoding: gzip\r\nX-Last: y\r\n\r\n",
    "behind an extension": f"0;name=value\r\n{TRAILER}\r\n\r\n",
    "with an end like no trailer's": f"0\r\n{TRAILER}\r\nX: 0\r\n\r\n",
    "as long as a head": "0\r\n" + "".join(f"X-{n}: y\r\n" for n in range(100)) + f"{TRAILER}\r\n\r\n",
}
PLACES = {"metered": METERED, "the application's way": ENCODED, "the application": "/echo", "nowhere": "/nothing"}


async def show(exchange: Exchange) -> None:
    """Answers with the headers that it got."""
    await exchange.read(1 << 20)
    pairs = [(name.decode(), value.decode()) for name, value in exchange.raw_headers]
    exchange.answer(200, b"", json.dumps(pairs).encode())


async def _headers_seen(client: Client, count: int) -> list[str]:
    """The names and values of all requests that were answered, at most so many. A client that sends on is reset."""
    seen = []
    with suppress(Cut):
        for _ in range(count):
            answer = await client.answer()
            seen.append(answer.body.decode())
            if answer.last:
                await client.closed()
                break
    return seen


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("path", PLACES.values(), ids=PLACES)
@on_both_loops
async def test_a_trailer_is_no_header_of_the_next_request(path, end):
    """However the bytes arrive: the chunked request alone, with the next one in its segment, and byte by byte."""
    request = chunked(b"some", path=path, end=end.encode())
    async with edge(show) as served:
        for following in (post(b"next"), get("/plain?next")):
            for size in (1 << 20, 1):
                client = await served.connect()
                with suppress(ConnectionError, RuntimeError):  # the server closes before all is sent
                    await client.send_slowly(request + following, size)
                seen = await _headers_seen(client, 2)
                assert not any("mg_of_the_trailer" in header or "gzip" in header for header in seen)
                client = await served.connect()
                await client.send_slowly(request, size)
                first = await client.answer()
                assert first.last or first.status == 404  # which is out before the trailer comes
                await client.closed()
        await served.empty()


@on_both_loops
async def test_a_chunked_request_without_trailers_keeps_its_connection():
    async with edge(show) as served:
        client = await served.connect()
        for chunks in ((b"some", b"body"), (b"x" * 70_000,), ()):
            for size in (1 << 20, 61, 1) if sum(map(len, chunks)) < 100 else (1 << 20, 1_000):
                await client.send_slowly(chunked(*chunks), size)
                assert not (await client.answer()).last
                client.send(get())
                assert (await client.answer()).body == b"plain "
        assert len(served.server.connections) == 1


@behind_the_front
async def test_nothing_behind_a_chunked_request_is_believed_where_its_end_can_not_be_told():
    """What comes in one segment with the end of a chunked request, or waits beside it, is not read as a request."""
    gate = Gate(_stop_then_show)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"first"))
        await gate.reached.wait()
        client.send(chunked(b"some", end=ENDS["one"].encode()), post(b"never"), get())
        connection = served.server.connections[0]
        await until(lambda: bool(connection._messages))
        client.send(get("/plain?later"))
        gate.opened.set()
        assert TRAILER not in (await client.answer()).body.decode()
        second = await client.answer()
        assert (second.status, second.last, "mg_of" in second.body.decode()) == (200, True, False)
        await client.closed()
        await served.empty()
        assert served.ways == ["edge", "edge"]


async def _stop_then_show(exchange: Exchange, gate: Gate) -> None:
    await gate.wait()
    await show(exchange)


@on_both_loops
async def test_a_trailer_behind_a_request_for_an_upgrade_stays_there():
    """aiohttp keeps what comes behind such a request, and parses it when it is answered."""
    async with edge(show) as served:
        client = await served.connect()
        up = ("Connection: Upgrade", "Upgrade: websocket")
        end = ENDS["one"].encode()
        client.send(chunked(b"some", lines=up, end=end), chunked(b"some", end=end), post(b"next"), get())
        seen = await _headers_seen(client, 4)
        assert not any("mg_of_the_trailer" in header for header in seen)
        client = await served.connect()
        client.send(post(b"", *up), chunked(b"some", end=end), post(b"next"), get())
        seen = await _headers_seen(client, 4)
        assert len(seen) == 2
        assert not any("mg_of_the_trailer" in header for header in seen)


async def _connection(served: Edge) -> EdgeProtocol:
    await until(lambda: len(served.server.connections) == 1)
    connection = served.server.connections[0]
    assert isinstance(connection, EdgeProtocol)
    return connection


@behind_the_front
async def test_a_trailer_behind_a_full_queue_is_no_header():
    """The parser stops while many requests wait: the bytes that it has not read yet may hold trailers."""
    gate = Gate(_stop_then_show)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"first"))
        await gate.reached.wait()
        end = ENDS["one"].encode()
        client.send(*[get()] * 31, chunked(b"some", end=end), post(b"never"), chunked(b"some"))
        connection = await _connection(served)
        await until(lambda: connection._buffer_paused or len(connection._messages) > 30)
        gate.opened.set()
        seen = await _headers_seen(client, 40)
        assert not any("mg_of_the_trailer" in header for header in seen)
        await served.empty()
