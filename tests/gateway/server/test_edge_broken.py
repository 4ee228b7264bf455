"""Bodies and requests that are coded or broken: each is read or refused, and none holds its connection for ever."""

import gzip
import zlib

import pytest

from gateway.server.exchange import Exchange
from tests.support.edge_clients import ENCODED, METERED, Client, chunked, get, post, until
from tests.support.edge_servers import LIMIT_BYTES, Gate, behind_the_front, echo, edge, on_both_loops


@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_compressed_bodies(path):
    plain = b"some text " * 100_000
    async with edge(echo) as served:
        client = await served.connect()
        for coding, packed in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))):
            client.send(post(packed, f"Content-Encoding: {coding}", path=path))
            assert (await client.answer()).body == b"metered " + plain
        bomb = gzip.compress(b"\0" * 50 * LIMIT_BYTES)
        client.send(post(bomb, "Content-Encoding: gzip", path=path), post(b"next", path=path))
        assert (await client.answer()).status == 413
        assert (await client.answer()).body == b"metered next"


@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_a_body_that_cannot_be_decoded_is_refused(path):
    """Its framing is whole: the next request is served."""
    cut = zlib.compress(b"some body" * 1_000)[:-6]
    async with edge(echo) as served:
        client = await served.connect()
        for coding, body in (("gzip", b"no gzip at all"), ("deflate", cut), ("br", b"x"), ("gzip, gzip", b"x")):
            client.send(post(body, f"Content-Encoding: {coding}", path=path), post(b"next"))
            assert (await client.answer()).status == 400
            assert (await client.answer()).body == b"metered next"


SPOILT = {
    "no length of a chunk": chunked(b"some", end=b"nonsense\r\n"),
    "a chunk without its end": chunked(b"some", end=b"4\r\nbodyX\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_a_body_whose_framing_breaks_is_refused(spoilt, path):
    """In one segment with its head, and when it is being read already."""
    spoilt = spoilt.replace(METERED.encode(), path.encode())
    async with edge(echo) as served:
        for apart in (False, True):
            client = await served.connect()
            head, body = spoilt.split(b"\r\n\r\n", 1)
            client.send(head, b"\r\n\r\n")
            if apart:
                known = len(served.ways)
                await until(lambda known=known: len(served.ways) > known)  # type: ignore[misc]
            client.send(body)
            await _assert_refused(client)
        await served.empty()


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("path", [METERED, ENCODED])
@behind_the_front
async def test_a_body_that_breaks_before_its_turn_is_refused(spoilt, path):
    """Its request waits behind another, and part of its body is here when the rest turns out to be broken."""
    gate = Gate(_stop_once_then_echo)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"0"))
        await gate.reached.wait()
        head, body = spoilt.replace(METERED.encode(), path.encode()).split(b"\r\n\r\n", 1)
        client.send(head, b"\r\n\r\n")
        connection = served.server.connections[0]
        await until(lambda: len(connection._messages) == 1)
        client.send(body)
        await until(lambda: len(connection._messages) == 2)
        gate.opened.set()
        assert (await client.answer()).body == b"metered 0"
        await _assert_refused(client)
        await served.empty()


GARBAGE = {
    "no HTTP": b"GARBAGE\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no host": f"POST {METERED} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode(),
    "two framings": chunked(b"x", lines=("Content-Length: 5",)),
    "two lengths": post(b"body", "Content-Length: 5"),
    "a negative length": post(b"", "X: y").replace(b"Content-Length: 0", b"Content-Length: -1"),
    "an unknown coding": post(b"x", "Transfer-Encoding: chunked, gzip"),
    "a name with a space": post(b"", "X Y: z"),
    "a NUL": post(b"", "X: \0"),
    "a folded line": post(b"", "X: a\r\n b"),
    "a huge line": post(b"", "X: " + "x" * 70_000),
    "a huge path": post(b"", path=METERED + "?" + "x" * 70_000),
    "many headers": post(b"", *[f"X-{number}: y" for number in range(5_000)]),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@on_both_loops
async def test_what_is_no_http_gets_400(garbage):
    """As the first bytes, after an answer, and behind a request that is being served. Good requests that come in one
    segment with garbage are lost to it: that is aiohttp's parser."""
    gate = Gate(lambda exchange, gate: _stop_once_then_echo(exchange, gate))
    async with edge(gate) as served:
        busy = await served.connect()
        busy.send(post(b"0"))
        await gate.reached.wait()
        busy.send(get(), garbage)
        gate.opened.set()
        assert (await busy.answer()).body == b"metered 0"
        await _assert_refused(busy)
        for before in ([], [post(b"0")], [get()]):
            client = await served.connect()
            for request in before:
                client.send(request)
                assert (await client.answer()).status == 200
            client.send(garbage)
            await _assert_refused(client)
        await served.empty()


async def _assert_refused(client: Client) -> None:
    seen = await client.answer()
    assert (seen.status, seen.last) == (400, True)
    await client.rest()


async def _stop_once_then_echo(exchange: Exchange, gate: Gate) -> None:
    if not gate.opened.is_set():
        await gate.wait()
    await echo(exchange)
