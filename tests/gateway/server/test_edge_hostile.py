"""Clients that mean harm and show no key: what is no request, heads that trickle, bombs, connections without end."""

import asyncio
import gzip
import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from aiohttp.compression_utils import ZLibDecompressor

from billing.codings import PIECE_BYTES, Decoder
from gateway.server.connection import EdgeProtocol
from gateway.server.exchange import Exchange
from gateway.server.guard import MAX_HEAD_BYTES, EdgeRules
from tests.support.edge_clients import ENCODED, METERED, Client, chunked, get, post, until
from tests.support.edge_servers import LIMIT_BYTES, Edge, Gate, behind_the_front, echo, edge, on_both_loops

pytestmark = pytest.mark.slow

SECRET = "mg_secret0123456789"
KEY = f"Authorization: Bearer {SECRET}"
ADMIN = f"X-Admin-Key: {SECRET}"
REST = f"Host: here\r\n{KEY}\r\n{ADMIN}\r\n\r\n".encode()

NO_REQUEST = {
    "a request line of another protocol": f"HELO {SECRET}\r\n".encode() + REST,
    "a line without a method": f"/{SECRET} HTTP/1.1\r\n".encode() + REST,
    "a method that is none": f"{SECRET} /plain HTTP/1.1\r\n".encode() + REST,
    "a version that is none": f"GET /plain?{SECRET} HTTP/9.9\r\n".encode() + REST,
    "an address that is none": f"GET http://[{SECRET} HTTP/1.1\r\n".encode() + REST,
    "a header without a colon": f"GET /plain HTTP/1.1\r\n{KEY}\r\n{SECRET}\r\n".encode() + REST,
    "a NUL in a header": f"GET /plain HTTP/1.1\r\n{KEY}\0\r\n".encode() + REST,
    "a NUL alone": b"\0" + SECRET.encode() + b"\r\n\r\n",
    "a header too long": f"GET /plain HTTP/1.1\r\n{KEY}{'x' * 20_000}\r\n".encode() + REST,
    "an address too long": f"GET /{SECRET}{'x' * 20_000} HTTP/1.1\r\n".encode() + REST,
    "too many headers": b"GET /plain HTTP/1.1\r\n" + f"{KEY}\r\n".encode() * 300 + REST,
    "no host": f"GET /plain HTTP/1.1\r\n{KEY}\r\n\r\n".encode(),
    "two hosts": f"GET /plain HTTP/1.1\r\nHost: {SECRET}\r\n".encode() + REST,
    "two lengths": post(SECRET.encode(), KEY, "Content-Length: 1"),
    "a chunk without a length": chunked(lines=(KEY,), path="/echo", end=SECRET.encode() + b"\r\n\r\n"),
    "a trailer that is none": chunked(b"x", lines=(KEY,), end=b"0\r\n" + SECRET.encode() + b"\r\n\r\n"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SECRET.encode(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET.encode(),
}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that any logger says, however little it matters."""
    caplog.set_level(logging.DEBUG)
    return caplog


async def _assert_ours(client: Client) -> None:
    """The refusal in its envelope, and the connection's end."""
    seen = await client.answer()
    assert (seen.status, seen.last) == (400, True)
    assert "server" not in seen.headers
    assert seen.headers["content-type"].startswith("application/json")
    error = json.loads(seen.body)["error"]
    assert (error["code"], error["type"]) == ("invalid_request_error", "invalid_request_error")
    assert {"message", "param"} <= set(error)
    assert seen.headers["x-request-id"]
    assert SECRET not in seen.body.decode()
    await client.rest()


def _assert_quiet(logged: pytest.LogCaptureFixture, refused: int) -> None:
    records = [record for record in logged.records if record.name != "asyncio"]
    assert len(records) == refused, [record.getMessage() for record in records]
    shown = logged.text + "".join(str(record.__dict__) for record in logged.records)
    assert SECRET not in shown
    assert SECRET[3:].encode().hex() not in shown
    assert all(record.exc_info is None and "\n" not in record.getMessage() for record in records)
    logged.clear()


@pytest.mark.parametrize("sent", NO_REQUEST.values(), ids=NO_REQUEST)
@on_both_loops
async def test_what_is_no_request_is_refused_in_the_envelope_and_leaves_one_line_without_its_bytes(sent, logged):
    """As the first bytes, after an answer, and while a request is served on either way."""
    gate = Gate(_stop_then_echo)
    async with edge(gate) as served:
        gate.opened.set()
        for before in (b"", post(b"0"), get()):
            client = await served.connect()
            if before:
                client.send(before)
                assert (await client.answer()).status == 200
            client.send(sent)
            await _assert_ours(client)
            _assert_quiet(logged, 1)
        for way in (METERED, ENCODED):
            gate.opened.clear()
            gate.reached.clear()
            client = await served.connect()
            client.send(post(b"0", path=way))
            await gate.reached.wait()
            client.send(sent)
            await asyncio.sleep(0)
            gate.opened.set()
            assert (await client.answer()).body == b"metered 0"
            await _assert_ours(client)
            _assert_quiet(logged, 1)
        await served.empty()


async def _stop_then_echo(exchange: Exchange, gate: Gate) -> None:
    await gate.wait()
    await echo(exchange)


SPOILT = {
    "no length of a chunk": chunked(b"some", lines=(KEY,), end=SECRET.encode() + b"\r\n"),
    "a chunk without its end": chunked(b"some", lines=(KEY,), end=b"4\r\nbody" + SECRET.encode() + b"\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("sent", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_a_body_that_breaks_while_it_is_read_leaves_no_bytes_in_the_log(path, sent, logged):
    async with edge(echo) as served:
        client = await served.connect()
        head, body = sent.replace(METERED.encode(), path.encode()).split(b"\r\n\r\n", 1)
        client.send(head, b"\r\n\r\n")
        await until(lambda: bool(served.ways))
        client.send(body)
        assert (await client.answer()).status == 400
        await client.rest()
        await served.empty()
        assert SECRET not in logged.text
        assert "Traceback" not in logged.text


@pytest.mark.parametrize("path", ["/plain", "/nothing", METERED, ENCODED])
@on_both_loops
async def test_nothing_is_decompressed_for_a_client_without_a_key(path, monkeypatch):
    """Bombs to paths that read no body, and to those that refuse before they read it."""
    fed = []
    decompress = ZLibDecompressor.decompress_sync

    def counted(self, data, max_length=0):
        fed.append(len(data))
        return decompress(self, data, max_length)

    monkeypatch.setattr(ZLibDecompressor, "decompress_sync", counted)
    monkeypatch.setattr(Decoder, "feed", lambda self, data: fed.append(len(data)))
    bomb = gzip.compress(b"\0" * (64 << 20))
    async with edge(_refuse) as served:
        for method in (b"POST", b"GET"):
            client = await served.connect()
            client.send(post(bomb, "Content-Encoding: gzip", path=path).replace(b"POST", method, 1), get())
            assert (await client.answer()).status in (200, 401, 404, 405)
            assert (await client.answer()).body == b"plain "
        assert fed == []


async def _refuse(exchange: Exchange) -> None:
    exchange.answer(401, b"", b"refused")


@on_both_loops
async def test_a_bomb_with_a_key_is_decoded_in_slices_up_to_its_bound():
    """Others are served in between; no more is made of it than the bound and one slice."""
    turns, made = 0, []
    feed = Decoder.feed

    def counted(self, data):
        for piece in feed(self, data):
            made.append((turns, len(piece)))
            yield piece

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with edge(echo) as served:
        counting = asyncio.create_task(count())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Decoder, "feed", counted)
            client = await served.connect()
            client.send(post(gzip.compress(b"\0" * (64 << 20)), "Content-Encoding: gzip"))
            assert (await client.answer()).status == 413
        counting.cancel()
        assert LIMIT_BYTES < sum(size for _, size in made) <= LIMIT_BYTES + PIECE_BYTES
        assert len({turn for turn, _ in made}) >= len(made) // 2, "slices of several in one turn of the loop"


@on_both_loops
async def test_a_head_that_trickles_ends_its_connection():
    """A new connection and one that has served; an idle one lives on, as does one whose body trickles."""
    async with edge(echo, rules=EdgeRules(head_timeout_s=0.2)) as served:
        idle, body = await served.connect(), await served.connect()
        body.send(post(b"body")[:-1])
        for before in ([], [post(b"0")], [get()]):
            client = await served.connect()
            for request in before:
                client.send(request)
                await client.answer()
            for byte in b"GET /plain HTTP/1.1\r\nX: ":
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            await client.closed()
        body.send(b"y")
        assert (await body.answer()).body == b"metered body"[:-1] + b"y"
        idle.send(get()[:20])
        await asyncio.sleep(0)
        idle.send(get()[20:])
        assert (await idle.answer()).body == b"plain "
        idle.send(get())
        assert (await idle.answer()).body == b"plain "


@behind_the_front
async def test_a_head_without_end_is_refused(logged):
    """Each of its lines is short enough, and there are fewer than aiohttp allows."""
    lines = [f"X-{number}: {SECRET}{'y' * 8_000}\r\n".encode() for number in range(100)]
    async with edge(echo) as served:
        client = await served.connect()
        client.send(b"GET /plain HTTP/1.1\r\n")
        connection = await _connected(served)
        sent = 0
        for line in lines:
            client.send(line)
            sent += len(line)
            if sent > MAX_HEAD_BYTES:
                break
            await until(lambda sent=sent: connection._head_bytes > sent)  # type: ignore[misc]
        await _assert_ours(client)
        _assert_quiet(logged, 1)
        await served.empty()


async def _connected(served: Edge) -> EdgeProtocol:
    await until(lambda: len(served.server.connections) == 1)
    connection = served.server.connections[0]
    assert isinstance(connection, EdgeProtocol)
    return connection


@on_both_loops
async def test_connections_above_the_bound_end_those_that_wait_longest():
    gate = Gate(_stop_then_echo)
    async with edge(gate, rules=EdgeRules(max_connections=3)) as served:
        busy = await served.connect()
        busy.send(post(b"0"))
        await gate.reached.wait()
        first, second = await served.connect(), await served.connect()
        loop = asyncio.get_running_loop()
        for number, client in enumerate((second, first), start=1):
            client.send(get())
            await client.answer()
            since_s = loop.time()
            await until(lambda n=number: _waiting(served.server.connections) >= n)  # type: ignore[misc]
            await until(lambda since_s=since_s: loop.time() > since_s + 0.005)  # type: ignore[misc]
        third = await served.connect()
        third.send(get())
        await second.closed()
        assert (await third.answer()).body == b"plain "
        first.send(get())
        assert (await first.answer()).body == b"plain "
        gate.opened.set()
        assert (await busy.answer()).body == b"metered 0"


def _waiting(connections: Iterable[Any]) -> int:
    return sum(each.waits_since_s is not None and getattr(each, "_request_count", 0) > 0 for each in connections)


@on_both_loops
async def test_a_connection_above_the_bound_is_told_so_where_all_others_are_busy():
    gate = Gate(_stop_then_echo)
    async with edge(gate, rules=EdgeRules(max_connections=2)) as served:
        busy = [await served.connect() for _ in range(2)]
        for client in busy:
            client.send(post(b"0"))
        await until(lambda: len(served.ways) == 2)
        refused = await (await served.connect()).answer()
        assert (refused.status, refused.last) == (503, True)
        assert int(refused.headers["retry-after"]) >= 1
        assert json.loads(refused.body)["error"]["code"] == "temporarily_unavailable"
        gate.opened.set()
        assert [(await client.answer()).body for client in busy] == [b"metered 0"] * 2


@pytest.mark.parametrize("path", [METERED, ENCODED, "/plain"])
@on_both_loops
async def test_a_body_in_chunks_of_one_byte_lets_others_in(path):
    """Whether it is read or refused: between two looks at the connection only so many chunks are parsed."""
    gate = Gate(_stop_then_echo)
    gate.opened.set()
    async with edge(gate, rules=EdgeRules(linger_s=10.0)) as served:
        client, other = await served.connect(), await served.connect()
        count = 50_000
        client.send(chunked(path=path, end=b"1\r\nx\r\n" * count + b"0\r\n\r\n"))
        other.send(get())
        assert (await other.answer()).body == b"plain "
        seen = await client.answer()
        assert seen.status == 405 if path == "/plain" else len(seen.body) == count + len(b"metered ")
