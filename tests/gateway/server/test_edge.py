"""The server's edge, by raw bytes over loopback: whichever way a request takes, each is answered once and in order."""

import asyncio
import itertools
import json

import pytest

from gateway.server.exchange import Exchange
from tests.support.edge_clients import ENCODED, METERED, Cut, chunked, get, post, until
from tests.support.edge_servers import LIMIT_BYTES, Gate, behind_the_front, echo, edge, on_both_loops, paced, streamed


@on_both_loops
async def test_one_connection_serves_many_requests():
    async with edge(echo) as served:
        client = await served.connect()
        for number in range(5):
            client.send(post(b"%d" % number))
            seen = await client.answer()
            assert (seen.status, seen.body, seen.headers["x-endpoint"]) == (200, b"metered %d" % number, METERED)
            assert "connection" not in seen.headers
        assert (len(served.server.connections), served.ways) == (1, ["edge"] * 5)


# Requests of each kind and what they are answered with.
KINDS = {
    "M": lambda number: (post(b"%d" % number), b"metered %d" % number),
    "E": lambda number: (post(b"%d" % number, path=ENCODED), b"metered %d" % number),
    "A": lambda number: (get(f"/plain?{number}"), b"plain %d" % number),
    "P": lambda number: (post(b"%d" % number, path="/echo"), b"application %d" % number),
}


@pytest.mark.parametrize("size", [1 << 20, 61, 7])
@on_both_loops
async def test_pipelined_requests_are_answered_in_order(size):
    """Every mix of ways, in one segment or in many that cut heads and bodies anywhere."""

    async def slow(exchange):
        await asyncio.sleep(0)
        await echo(exchange)

    async with edge(slow) as served:
        for mix in itertools.product("MEA" if size < 1 << 20 else KINDS, repeat=3):
            requests = [KINDS[kind](number) for number, kind in enumerate(mix)]
            client = await served.connect()
            await client.send_slowly(b"".join(sent for sent, _ in requests), size)
            assert [(await client.answer()).body for _ in requests] == [answer for _, answer in requests], mix
            client.send(post(b"last"))
            assert (await client.answer()).body == b"metered last"
            await client.leave()
        await served.empty()


@behind_the_front
async def test_more_requests_than_the_queue_holds():
    """Reading pauses meanwhile, and goes on."""
    gate = Gate(lambda exchange, gate: _stop_once_then_echo(exchange, gate))
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"first"))
        await gate.reached.wait()
        kinds = ["MA"[number % 3 == 2] for number in range(2_000)]
        requests = [KINDS[kind](number) for number, kind in enumerate(kinds)]
        client.send(*[sent for sent, _ in requests])
        connection = served.server.connections[0]
        await until(lambda: connection._buffer_paused)
        queued = len(connection._messages)
        gate.opened.set()
        assert (await client.answer()).body == b"metered first"
        assert [(await client.answer()).body for _ in requests] == [answer for _, answer in requests]
        assert queued < 100


async def _stop_once_then_echo(exchange: Exchange, gate: Gate) -> None:
    if not gate.opened.is_set():
        await gate.wait()
    await echo(exchange)


@behind_the_front
async def test_a_large_pipelined_body_pauses_reading():
    gate = Gate(lambda exchange, gate: _stop_once_then_echo(exchange, gate))
    async with edge(gate) as served:
        client = await served.connect()
        body = b"x" * LIMIT_BYTES
        client.send(post(b"first"))
        await gate.reached.wait()
        client.send(*[post(body)] * 20)
        connection = served.server.connections[0]
        await until(lambda: connection._reading_paused)
        held = sum(payload.total_bytes for _, payload in connection._messages)
        gate.opened.set()
        assert (await client.answer()).body == b"metered first"
        for _ in range(20):
            assert len((await client.answer()).body) == len(b"metered ") + LIMIT_BYTES
        assert held < 3 * LIMIT_BYTES


@pytest.mark.parametrize("request_", [post(b"some body"), chunked(b"some", b" ", b"body")], ids=["length", "chunks"])
@on_both_loops
async def test_a_request_in_pieces(request_):
    async with edge(echo) as served:
        client = await served.connect()
        await client.send_slowly(request_, 1)
        assert (await client.answer()).body == b"metered some body"
        head, body = request_.split(b"\r\n\r\n", 1)
        client.send(head + b"\r\n\r\n")
        await until(lambda: len(served.ways) == 2)
        client.send(body)
        assert (await client.answer()).body == b"metered some body"
        assert served.ways == ["edge"] * 2


@on_both_loops
async def test_chunks_with_extensions():
    async with edge(echo) as served:
        client = await served.connect()
        body = b"4;name=value\r\nsome\r\n5\r\n body\r\n0\r\n\r\n"
        for _ in range(2):
            client.send(chunked(end=body))
            assert (await client.answer()).body == b"metered some body"


@on_both_loops
async def test_a_request_without_a_body():
    async with edge(echo) as served:
        client = await served.connect()
        head = f"POST {METERED} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
        client.send(head, post(b""), head)
        assert [(await client.answer()).body for _ in range(3)] == [b"metered "] * 3
        for _ in range(2):
            client.send(chunked())
            assert (await client.answer()).body == b"metered "


@on_both_loops
async def test_a_request_that_awaits_what_is_not_known_is_refused():
    async with edge(echo) as served:
        client = await served.connect()
        client.send(get("/plain", "Expect: miracles"))
        seen = await client.answer()
        assert (seen.status, json.loads(seen.body)["error"]["code"]) == (400, "invalid_request_error")


@on_both_loops
async def test_queries_and_spellings_of_the_path():
    """All are served; those that are spelt otherwise take the application's way."""
    async with edge(echo) as served:
        client = await served.connect()
        for path in (METERED + "?key=a&b=%20", ENCODED, f"http://here{METERED}", ENCODED + "?a", METERED + "#part"):
            client.send(post(path=path))
            seen = await client.answer()
            assert (seen.body, seen.headers["x-endpoint"]) == (b"metered body", METERED)
        assert served.ways == ["edge"] + ["application"] * 4
        for path, status in (("/v1/Metered", 404), (METERED + "/", 404), ("/v1/none?" + METERED, 404)):
            client.send(post(path=path))
            assert (await client.answer()).status == status
        client.send(get(METERED))
        assert (await client.answer()).status == 405


@pytest.mark.parametrize(
    ("path", "expected"), [(METERED, b"metered"), (ENCODED, b"metered"), ("/echo", b"application")]
)
@on_both_loops
async def test_the_client_is_told_to_go_on(path, expected):
    """Once, by whichever way the request comes, also as a connection's first."""
    async with edge(echo) as served:
        client = await served.connect()
        for lines in (("Expect: 100-continue",), ("Expect: 100-Continue", "X: y")):
            head, body = post(b"awaited", *lines, path=path).split(b"\r\n\r\n")
            client.send(head, b"\r\n\r\n")
            assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(body)
            seen = await client.answer()
            assert (seen.body, seen.interim) == (expected + b" awaited", ())
        client.send(post(b"here already", "Expect: 100-continue", path=path))
        seen = await client.answer()
        assert (seen.body, seen.interim) == (expected + b" here already", ())


@on_both_loops
async def test_http_1_0():
    """No chunks, no interim answers; the connection is kept where the client asks for it and the body has a length."""
    keep = "Connection: keep-alive"
    async with edge(echo) as served:
        client = await served.connect()
        for _ in range(2):
            client.send(post(b"x", keep, "Expect: 100-continue", version="1.0"))
            seen = await client.answer()
            assert (seen.body, seen.last, seen.interim) == (b"metered x", False, ())
            assert seen.headers["connection"] == "keep-alive"
        client.send(post(b"x", version="1.0"))
        seen = await client.answer()
        assert (seen.body, seen.headers["connection"]) == (b"metered x", "close")
        await client.closed()
    async with edge(streamed) as served:
        client = await served.connect()
        client.send(post(b"some body", keep, version="1.0"))
        seen = await client.answer()
        assert (seen.body, seen.headers["connection"]) == (b"some body", "close")
        assert "transfer-encoding" not in seen.headers
        await served.empty()


@pytest.mark.parametrize("serve", [echo, streamed])
@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_the_client_asks_for_the_connection_s_end(serve, path):
    async with edge(serve) as served:
        client = await served.connect()
        client.send(post(b"body", "Connection: close", path=path))
        seen = await client.answer()
        assert (seen.body.endswith(b"body"), seen.headers["connection"]) == (True, "close")
        await client.closed()
        await served.empty()


@pytest.mark.parametrize("path", [METERED, ENCODED])
@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
@on_both_loops
async def test_a_request_for_an_upgrade_is_served_as_it_is(protocol, path):
    async with edge(echo) as served:
        client = await served.connect()
        asked = post(b"body", "Connection: Upgrade", f"Upgrade: {protocol}", path=path)
        for _ in range(2):
            client.send(asked)
            assert (await client.answer()).body == b"metered body"
        client.send(post(b"next"))
        assert (await client.answer()).body == b"metered next"


@on_both_loops
async def test_nothing_behind_a_request_for_an_upgrade_is_lost():
    async with edge(echo) as served:
        client = await served.connect()
        client.send(post(b"0", "Connection: Upgrade", "Upgrade: websocket"), post(b"1"), get("/plain?2"), post(b"3"))
        bodies = [(await client.answer()).body for _ in range(4)]
        assert bodies == [b"metered 0", b"metered 1", b"plain 2", b"metered 3"]


@on_both_loops
async def test_an_idle_connection_is_closed_and_a_busy_one_is_not():
    gate = Gate(lambda exchange, gate: _stop_once_then_echo(exchange, gate))
    async with edge(gate, keepalive_timeout=0.6) as served:
        busy = await served.connect()
        busy.send(post())
        await gate.reached.wait()
        for _ in range(2):  # each idles for longer than the busy one had left
            await (await served.connect()).closed()
        half = await served.connect()
        half.send(post()[:30])
        await half.closed()
        busy.send(post(b"again"))  # before it idles: on a busy machine that may be over at once
        gate.opened.set()
        assert (await busy.answer()).body == b"metered body"
        assert (await busy.answer()).body == b"metered again"
        await busy.closed()
        await served.empty()


async def _raise_before(exchange: Exchange) -> None:
    await exchange.read(LIMIT_BYTES)
    raise ValueError("of the test")


async def _raise_within(exchange: Exchange) -> None:
    exchange.begin(200, b"")
    await paced(exchange, b"begun")
    await _raise_before(exchange)


@pytest.mark.parametrize("serve", [_raise_before, _raise_within])
@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_a_call_that_raises_ends_its_connection_alone(serve, path):
    async def either(exchange):
        await (serve if "X-Raise" in exchange.headers else echo)(exchange)

    async with edge(either) as served:
        other, client = await served.connect(), await served.connect()
        other.send(post(b"0"))
        assert (await other.answer()).body == b"metered 0"
        client.send(post(b"1", path=path), post(b"2", "X-Raise: y", path=path), post(b"never answered", path=path))
        assert (await client.answer()).body == b"metered 1"
        with pytest.raises(Cut):
            await client.answer()
        await client.rest()
        other.send(post(b"3"))
        assert (await other.answer()).body == b"metered 3"
        assert len(served.server.connections) == 1
