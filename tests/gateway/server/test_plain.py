"""The plain edge, by raw bytes over loopback: what it holds as the guarded one does, without private parts."""

import pytest
from aiohttp import web

from gateway.server.guard import EdgeRules
from gateway.server.plain import HIGH_BYTES, PlainRunner
from tests.support.edge_clients import Cut, chunked, get, post, until
from tests.support.edge_servers import LIMIT_BYTES, Edge, Gate, echo, edge, on_both_loops, paced, streamed

BOTH = pytest.mark.parametrize("plain", [False, True], ids=["guarded", "plain"])


@BOTH
@on_both_loops
async def test_one_connection_serves_metered_requests_and_others(plain):
    async with edge(echo, plain=plain) as served:
        client = await served.connect()
        for number in range(3):
            client.send(post(b"%d" % number), get(f"/plain?{number}"))
            assert (await client.answer()).body == b"metered %d" % number
            assert (await client.answer()).body == b"plain %d" % number
        assert served.ways == [("edge", "application")[plain]] * 3


@BOTH
@on_both_loops
async def test_an_answer_in_pieces(plain):
    async with edge(streamed, plain=plain) as served:
        client = await served.connect()
        for version in ("1.1", "1.1", "1.0"):
            client.send(post(b"some body", version=version))
            seen = await client.answer()
            assert (seen.status, seen.body, seen.last) == (200, b"some body", version == "1.0")


@BOTH
@on_both_loops
async def test_a_client_that_leaves_cancels_its_request_alone(plain):
    async def waits(_, gate):
        await gate.wait()

    gate = Gate(waits)
    async with edge(gate, plain=plain) as served:
        stays, leaves = await served.connect(), await served.connect()
        leaves.send(post())
        await gate.reached.wait()
        stays.send(get())
        assert (await stays.answer()).status == 200
        await leaves.leave(reset=True)
        await until(lambda: bool(gate.ended))
        assert gate.ended == ["cancelled"]
        stays.send(get())
        assert (await stays.answer()).status == 200


@BOTH
@on_both_loops
async def test_a_broken_answer_can_t_pass_for_a_whole_one(plain):
    async def breaks(exchange):
        exchange.begin(200, b"")
        await paced(exchange, b"begun")
        raise ValueError("of the test")

    async with edge(breaks, plain=plain) as served:
        client = await served.connect()
        client.send(post(), get())
        with pytest.raises(Cut):
            await client.answer()
        assert b"plain" not in await client.rest()
        await served.empty()


@BOTH
@on_both_loops
async def test_a_client_that_reads_slowly_makes_its_answer_wait(plain):
    paused: list[int] = []

    async def large(exchange):
        exchange.begin(200, b"")
        for _ in range(100):
            if not exchange.put(b"x" * 100_000):
                paused.append(1)
                await exchange.flushed()
                transport = exchange._protocol.transport
                assert transport is not None
                assert transport.get_write_buffer_size() <= HIGH_BYTES
        exchange.finish(b"")

    async with edge(large, plain=plain) as served:
        client = await served.connect()
        client.send(post())
        assert len((await client.answer()).body) == 10_000_000
        assert paused


@BOTH
@on_both_loops
async def test_a_client_that_takes_nothing_is_cut_off(plain):
    async def ends(exchange):
        exchange.begin(200, b"")
        exchange.finish(b"x" * 20_000_000)

    async with edge(ends, plain=plain, rules=EdgeRules(client_write_timeout_s=0.1)) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(post())
        await until(lambda: bool(served.ways))
        await served.empty()


@BOTH
@pytest.mark.parametrize("path", ["/v1/metered", "/echo"])
@on_both_loops
async def test_a_trailer_is_never_a_header_of_the_next_request(plain, path):
    seen: list[str | None] = []

    async def noting(exchange):
        seen.append(exchange.headers.get("X-Key"))
        await echo(exchange)

    async with edge(noting, plain=plain) as served:
        await _send_with_trailers(served, path)
    assert seen in ([None], [])


async def _send_with_trailers(served: Edge, path: str) -> None:
    client = await served.connect()
    client.send(chunked(b"body", path=path, end=b"0\r\nX-Key: stolen\r\n\r\n"))
    seen = await client.answer()
    assert (seen.status, seen.last) == (200, True)
    client.send(post(b"next"))
    await client.closed()


@BOTH
@on_both_loops
async def test_the_body_is_asked_for_by_who_reads_it(plain):
    async def refuses(exchange):
        if "X-Refuse" in exchange.headers:
            exchange.answer(401, b"", b"no")
        else:
            await echo(exchange)

    async with edge(refuses, plain=plain) as served:
        client = await served.connect()
        head, body = post(b"some body", "Expect: 100-continue").split(b"\r\n\r\n")
        client.send(head, b"\r\n\r\n")
        assert b"100 Continue" in await client.reader.readuntil(b"\r\n\r\n")
        client.send(body)
        assert (await client.answer()).body == b"metered some body"
        client.send(post(b"", "Expect: 100-continue", "X-Refuse: y"))
        refused = await client.answer()
        assert (refused.status, refused.interim) == (401, ())


@BOTH
@on_both_loops
async def test_a_body_that_nobody_wanted_is_read_for_a_while(plain):
    async def refuses(exchange):
        exchange.answer(401, b"", b"no")

    async with edge(refuses, plain=plain) as served:
        client = await served.connect()
        client.send(post(b"x" * LIMIT_BYTES))
        assert (await client.answer()).status == 401
        client.send(post(b"small"))
        assert (await client.answer()).status == 401


def test_the_plain_edge_keeps_its_own_options():
    """None that unpacks a body before its key is known."""
    runner = PlainRunner(web.Application(), EdgeRules(linger_s=3.0), auto_decompress=True)
    assert (runner._kwargs["auto_decompress"], runner._kwargs["lingering_time"]) == (False, 3.0)
