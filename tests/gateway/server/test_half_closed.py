"""Clients that close their own direction behind a request, and read on: they are served; who has left is not."""

import asyncio

import pytest

from gateway.server.exchange import Exchange
from tests.gateway.conftest import chat
from tests.support.edge_clients import ENCODED, METERED, Client, Cut, chunked, get, post, until
from tests.support.edge_servers import Gate, echo, edge, on_both_loops, paced, streamed
from tests.support.gateways import connect

pytestmark = pytest.mark.slow


async def _stop_then_echo(exchange: Exchange, gate: Gate) -> None:
    await gate.wait()
    await echo(exchange)


async def _stop_then_stream(exchange: Exchange, gate: Gate) -> None:
    await gate.wait()
    await streamed(exchange)


async def _stop_in_the_answer(exchange: Exchange, gate: Gate) -> None:
    exchange.begin(200, b"")
    await paced(exchange, b"begun")
    await gate.wait()
    exchange.finish(b"")


def half_close(client: Client) -> None:
    client.writer.write_eof()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (post(b"x"), [b"metered x"]),
        (chunked(b"x", b"y"), [b"metered xy"]),
        (post(b"x", path=ENCODED), [b"metered x"]),
        (get("/plain?x"), [b"plain x"]),
        (post(b"x", path="/echo"), [b"application x"]),
        (post(b"x") + get("/plain?y") + post(b"z"), [b"metered x", b"plain y", b"metered z"]),
        (get("/plain?y") + post(b"z"), [b"plain y", b"metered z"]),
    ],
    ids=["metered", "chunked", "the application's way", "plain", "echo", "many", "many of the application's"],
)
@pytest.mark.parametrize("keep", [False, True], ids=["first", "kept"])
@on_both_loops
async def test_all_that_was_asked_before_is_answered(sent, expected, keep):
    async with edge(echo) as served:
        client = await served.connect()
        if keep:
            client.send(get())
            await client.answer()
        client.send(sent)
        half_close(client)
        answers = [await client.answer() for _ in expected]
        assert [seen.body for seen in answers] == expected
        assert not any(seen.last for seen in answers[:-1])  # the last may be out before the client's end has come
        await client.closed()
        await served.empty()


@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_an_answer_that_takes_its_time_comes_after_an_interim_one(path):
    gate = Gate(_stop_then_echo)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"x", path=path))
        half_close(client)
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        gate.opened.set()
        seen = await client.answer()
        assert (seen.body, seen.last) == (b"metered x", True)
        assert gate.ended == ["answered"]
        await served.empty()


@on_both_loops
async def test_an_answer_in_pieces_is_whole():
    gate = Gate(_stop_then_stream)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"some body" * 100))
        half_close(client)
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        gate.opened.set()
        seen = await client.answer()
        assert (seen.body, seen.last) == (b"some body" * 100, True)
        await served.empty()


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("path", [METERED, ENCODED])
@on_both_loops
async def test_who_leaves_after_that_ends_the_call(path, reset):
    """TCP does not show the second close to the server: only sending something to the client does."""
    gate = Gate(_stop_then_echo)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"x", path=path))
        half_close(client)
        assert await client.reader.readexactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.leave(reset=reset)
        await until(lambda: gate.ended == ["cancelled"])
        await served.empty()


@pytest.mark.parametrize(
    ("work", "sent"),
    [
        (_stop_then_echo, post(b"body", version="1.0")),
        (_stop_then_echo, post(b"body") + post(b"body")[:-1]),
        (_stop_in_the_answer, post(b"body")),
    ],
    ids=["HTTP/1.0", "half a request behind it", "its answer has begun"],
)
@on_both_loops
async def test_who_can_not_be_asked_counts_as_gone(work, sent):
    gate = Gate(work)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(sent)
        await gate.reached.wait()
        half_close(client)
        await until(lambda: gate.ended == ["cancelled"])
        await served.empty()


@pytest.mark.parametrize("sent", [post(b"body")[:-1], chunked(b"body")[:-3], get()[:20], b""])
@on_both_loops
async def test_half_a_request_is_none(sent):
    async with edge(echo) as served:
        client = await served.connect()
        client.send(sent)
        await asyncio.sleep(0)
        half_close(client)
        with pytest.raises(Cut):
            await client.answer()
        await served.empty()


async def test_a_whole_gateway_charges_it_as_any_other(gateway):
    customer = await gateway.customer()
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "Say something."}]%s}'
    for more in (b"", b', "stream": true'):
        client = await connect(gateway)
        client.send(post(body % more, f"Authorization: Bearer {customer.key}", path="/v1/chat/completions"))
        half_close(client)
        assert (await client.answer()).status == 200
        await client.leave()
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
    events = await customer.events()
    assert [event["estimated"] for event in events] == [False] * 3
