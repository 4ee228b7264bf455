"""A call's body and answer, on real connections: bounds, framing, pace."""

import asyncio
import gzip
import json

import pytest

from gateway.server.exchange import BadBody, BodyTooLarge, ClientGone, Exchange
from tests.support.edge_clients import ENCODED, METERED, Cut, chunked, get, post, until
from tests.support.edge_servers import Gate, edge, on_both_loops, paced

PATHS = pytest.mark.parametrize("path", [METERED, ENCODED])
LIMIT_BYTES = 1_000


async def bounded(exchange: Exchange) -> None:
    """Answer with how many bytes were read, or with the failure."""
    try:
        answer = b"%d bytes" % len(await exchange.read(LIMIT_BYTES))
    except (BodyTooLarge, BadBody) as error:
        answer = type(error).__name__.encode()
    exchange.answer(200, b"", answer)


@PATHS
@on_both_loops
async def test_a_body_is_bounded_however_it_comes(path):
    exact, above = b"x" * LIMIT_BYTES, b"x" * (LIMIT_BYTES + 1)
    packed = "Content-Encoding: gzip"
    cases = [
        (post(exact, path=path), b"1000 bytes"),
        (post(above, path=path), b"BodyTooLarge"),
        (chunked(exact, path=path), b"1000 bytes"),
        (chunked(b"x", exact, path=path), b"BodyTooLarge"),
        (chunked(*[b"x"] * 1_001, path=path), b"BodyTooLarge"),
        (post(gzip.compress(exact), packed, path=path), b"1000 bytes"),
        (post(gzip.compress(above), packed, path=path), b"BodyTooLarge"),
        (chunked(gzip.compress(above), lines=(packed,), path=path), b"BodyTooLarge"),
        (post(b"", path=path), b"0 bytes"),
    ]
    async with edge(bounded) as served:
        client = await served.connect()
        for request, answer in cases:
            for size in (len(request), 100):
                await client.send_slowly(request, size)
                assert (await client.answer()).body == answer


@on_both_loops
async def test_headers_and_endpoint_are_the_client_s():
    async def describe(exchange):
        seen = [
            exchange.match.endpoint.path,
            exchange.headers["x-odd"],
            [name.decode() for name, _ in exchange.raw_headers],
        ]
        exchange.answer(200, b"", json.dumps(seen).encode())

    async with edge(describe) as served:
        client = await served.connect()
        for path in (METERED + "?a=b", ENCODED + "?a=b"):
            client.send(post(b"", "X-Odd: Grüße", path=path))
            assert json.loads((await client.answer()).body) == [METERED, "Grüße", ["Host", "Content-Length", "X-Odd"]]


@PATHS
@on_both_loops
async def test_an_answer_s_head(path):
    async def answer(exchange):
        exchange.answer(int(exchange.headers["x-status"]), b"X-Line: a\r\nX-Other: b\r\n", b"body")

    async with edge(answer) as served:
        client = await served.connect()
        for status in (200, 402, 599, 799):
            client.send(post(b"", f"X-Status: {status}", path=path))
            seen = await client.answer()
            assert (seen.status, seen.body) == (status, b"body")
            assert set(seen.headers) == {"x-line", "x-other", "content-length", "date"}
            assert seen.headers["date"].endswith(" GMT")


@PATHS
@on_both_loops
async def test_an_answer_in_pieces(path):
    """Empty pieces are no end."""

    async def pieces(exchange):
        exchange.begin(200, b"")
        assert (exchange.begun, exchange.unsent) == (True, True)
        for piece in (b"", b"one ", b"", b"two "):
            await paced(exchange, piece)
            assert not exchange.unsent
        exchange.finish(b"three" if "X-Last" in exchange.headers else b"")

    async with edge(pieces) as served:
        for version in ("1.1", "1.0"):
            for line, body in (("X-Last: y", b"one two three"), ("X-None: y", b"one two ")):
                client = await served.connect()
                client.send(post(b"", line, path=path, version=version))
                assert (await client.answer()).body == body
                if version == "1.1":
                    client.send(post(b"", line, path=path))
                    assert (await client.answer()).body == body


@on_both_loops
async def test_an_answer_that_ends_as_it_begins():
    async def at_once(exchange):
        exchange.begin(200, b"")
        exchange.finish(b"")

    async with edge(at_once) as served:
        for version in ("1.1", "1.1", "1.0"):
            client = await served.connect()
            client.send(post(version=version))
            assert (await client.answer()).body == b""


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@on_both_loops
async def test_another_answer_while_nothing_is_out(version):
    async def twice(exchange):
        exchange.begin(200, b"X-First: y\r\n")
        if exchange.unsent:
            exchange.answer(502, b"", b"failed")

    async with edge(twice) as served:
        client = await served.connect()
        client.send(post(version=version))
        seen = await client.answer()
        assert (seen.status, seen.body, "x-first" in seen.headers) == (502, b"failed", False)


@PATHS
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("begun", [False, True])
@on_both_loops
async def test_an_answer_that_was_broken_off_is_not_whole(begun, version, path):
    gate = Gate(lambda exchange, gate: _break_off(exchange, gate, begun))
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(path=path, version=version), *[post(path=path)] if version == "1.1" else [])
        if begun:
            await client.reader.readuntil(b"\r\n\r\n")
        gate.opened.set()
        if version == "1.0" and begun:  # only a reset tells it from a body's end
            with pytest.raises(ConnectionResetError):
                await client.reader.read(-1)
        else:
            rest = await client.rest()
            assert rest in (b"", b"5\r\nbegun\r\n")
        await served.empty()
        assert gate.ended == ["answered"]


async def _break_off(exchange: Exchange, gate: Gate, begun: bool) -> None:
    if begun:
        exchange.begin(200, b"")
        await paced(exchange, b"begun")
    await gate.wait()
    exchange.abort()


@PATHS
@on_both_loops
async def test_a_client_that_does_not_read_stalls_the_answer(path):
    """Memory is bounded; once it reads, it gets everything."""
    written, pieces, piece = 0, 400, b"x" * 100_000

    async def write(exchange):
        nonlocal written
        exchange.begin(200, b"")
        for _ in range(pieces):
            await paced(exchange, piece)
            written += 1
        exchange.finish(b"")

    async with edge(write) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(post(path=path), get())
        await until(lambda: any(each.writing_paused for each in served.server.connections))
        (connection,) = served.server.connections
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 2 * len(piece)
        assert written < pieces
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.answer()).body) == pieces * len(piece)
        assert (await client.answer()).body == b"plain "


@PATHS
@on_both_loops
async def test_a_whole_answer_that_is_not_read_holds_the_next_call_back(path):
    async def large(exchange):
        exchange.answer(200, b"", b"x" * 8_000_000)

    async with edge(large) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(*[post(path=path)] * 5)
        await until(lambda: any(each.writing_paused for each in served.server.connections))
        assert len(served.ways) == 1
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(5):
            assert len((await client.answer()).body) == 8_000_000


@on_both_loops
async def test_writing_to_a_client_that_has_left():
    """`put` and `end` say so; an answer is dropped."""
    ended = asyncio.Event()
    raised = []

    async def write(exchange):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            exchange.begin(200, b"")
            with pytest.raises(ClientGone):
                exchange.put(b"x")
            with pytest.raises(ClientGone):
                exchange.finish(b"x")
            raised.extend(("put", "end"))
            exchange.answer(200, b"", b"nobody reads it")
            exchange.abort()
            await exchange.flushed()
            ended.set()
            raise

    async with edge(write) as served:
        client = await served.connect()
        client.send(post())
        await until(lambda: bool(served.ways))
        await client.leave()
        await ended.wait()
        assert raised == ["put", "end"]
        await served.empty()


@on_both_loops
async def test_a_body_that_breaks_off_ends_the_call():
    """On the application's way the call is told so, on the edge's it is cancelled; neither waits for ever."""
    gate = Gate(lambda exchange, gate: _read(exchange, gate))
    for path in (METERED, ENCODED):
        async with edge(gate) as served:
            client = await served.connect()
            client.send(post(b"whole body", path=path)[:-5])
            await gate.reached.wait()
            await client.leave()
            await until(lambda: bool(gate.ended))
            with pytest.raises(Cut):
                await client.answer()
            await served.empty()
        assert gate.ended.pop() in ("cancelled", "BadBody")
        gate.reached.clear()


async def _read(exchange: Exchange, gate: Gate) -> None:
    gate.reached.set()
    await exchange.read(LIMIT_BYTES)
