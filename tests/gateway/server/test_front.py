"""The front: what it serves itself, what it gives away and gets back, and that nobody can hold it up."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from gateway.dialects.body import StructureBounds
from gateway.dialects.registry import make_dialects
from gateway.server.exchange import Begun, BodyTooLarge, Exchange
from gateway.server.front import BODY_S, HELD_BYTES, MOST_BYTES, OWN_API, FrontProtocol, Taken, split
from gateway.server.guard import EdgeRules
from gateway.server.known_heads import KnownHead
from gateway.server.paced import SLICE_BYTES
from tests.gateway.conftest import Gateway
from tests.support.edge_clients import ENCODED, Cut, chunked, get, post, until
from tests.support.edge_servers import Edge, Gate, echo, edge, on_both_loops, with_the_front
from tests.support.gateways import connect

pytestmark = pytest.mark.slow


def in_front(served: Edge) -> bool:
    """Whether the one connection that there is is the front's."""
    (connection,) = served.server.connections
    return isinstance(connection, FrontProtocol)


def has_front(served: Edge) -> bool:
    return isinstance(served.server(), FrontProtocol)


UNUSUAL = {
    "chunks": (chunked(b"a", b"b"), b"metered ab"),
    "another spelling": (post(b"ab", path=ENCODED), b"metered ab"),
    "the application's": (get("/plain?x"), b"plain x"),
    "an expectation": (post(b"ab", "Expect: 100-continue"), b"metered ab"),
    "a coding": (post(b"ab", "Content-Encoding: identity"), b"metered ab"),
    "an upgrade": (post(b"ab", "Connection: Upgrade", "Upgrade: h2c"), b"metered ab"),
    "a large body": (post(b"x" * MOST_BYTES), b"metered " + b"x" * MOST_BYTES),
    "a large head": (post(b"ab", *[f"X-{at}: {'y' * 4_000}" for at in range(3)]), b"metered ab"),
    "no ASCII": (post(b"ab").replace(b"Host", b"X: \xe4\r\nHost"), b"metered ab"),
    "an empty line before it": (b"\r\n" + post(b"ab"), b"metered ab"),
    "no body": (post(b""), b"metered "),
}


# What stands behind it in the same segment is not believed.
NOTHING_BEHIND = {"chunks", "an upgrade"}


@pytest.mark.parametrize("kind", UNUSUAL)
@on_both_loops
async def test_what_is_unusual_is_given_away_and_the_connection_comes_back(kind: str) -> None:
    sent, answer = UNUSUAL[kind]
    async with edge(echo) as served:
        client = await served.connect()
        for _ in range(3):
            client.send(post(b"plain"))
            assert (await client.answer()).body == b"metered plain"
            assert in_front(served) is has_front(served)
            client.send(sent)
            assert (await client.answer()).body == answer
            assert not in_front(served)
        assert len(served.server.clients) == 1
        behind = [] if kind in NOTHING_BEHIND else [post(b"plain"), post(b"plain")]
        client.send(post(b"plain"), sent, *behind)
        expected = [b"metered plain", answer, *[b"metered plain" for _ in behind]]
        assert [(await client.answer()).body for _ in expected] == expected
        await client.leave()
        await served.empty()


@on_both_loops
async def test_a_body_in_its_own_segment_is_awaited_in_front_for_a_while() -> None:
    async with edge(echo) as served:
        client = await served.connect()
        head, body = post(b"some body").split(b"\r\n\r\n")
        client.send(head, b"\r\n\r\n")
        if has_front(served):
            await until(lambda: bool(served.server.connections) and in_front(served))
            await until(lambda: served.server.shared.heads.size_bytes == len(head) + 4)
        client.send(body)
        assert (await client.answer()).body == b"metered some body"
        client.send(post(b"some body")[:-4])
        await until(lambda: not in_front(served))  # after BODY_S
        assert served.server.shared.heads.size_bytes == 0
        client.send(b"body")
        assert (await client.answer()).body == b"metered some body"
        assert served.ways == ["edge"] * 2
        assert EdgeRules().body_slow_s > BODY_S


@with_the_front
async def test_what_comes_behind_a_request_is_held_up_to_a_bound() -> None:
    gate = Gate(_stop_once_then_echo)
    async with edge(gate) as served:
        client = await served.connect()
        client.send(post(b"first"))
        await gate.reached.wait()
        requests = [post(b"%d" % number) if number % 3 else get(f"/plain?{number}") for number in range(20_000)]
        client.send(*requests)
        (connection,) = served.server.connections
        assert isinstance(connection, FrontProtocol)
        await until(lambda: connection._reading_paused)
        assert HELD_BYTES < len(connection._held) < 20 * HELD_BYTES
        assert served.server.shared.heads.size_bytes == len(connection._held)
        gate.opened.set()
        assert (await client.answer()).body == b"metered first"
        for number in range(len(requests)):
            assert (await client.answer()).body == (b"metered %d" if number % 3 else b"plain %d") % number
        await until(lambda: served.server.shared.heads.size_bytes == 0)


async def _stop_once_then_echo(exchange: Exchange, gate: Gate) -> None:
    if not gate.opened.is_set():
        await gate.wait()
    await echo(exchange)


@on_both_loops
async def test_many_small_requests_at_once_let_others_have_their_turn() -> None:
    """Although none of them waits for anything."""
    async with edge(echo) as served:
        client = await served.connect()
        requests = MOST_BYTES // len(post(b"x"))
        client.send(post(b"x") * requests)
        other = await served.connect()
        other.send(post(b"other"))
        assert (await other.answer()).body == b"metered other"
        for _ in range(requests):
            assert (await client.answer()).body == b"metered x"


@pytest.mark.parametrize("stage", ["a body is awaited", "behind a request"])
@with_the_front
async def test_what_is_kept_goes_where_all_together_keep_too_much(stage: str) -> None:
    """A body that is awaited is given away; what came behind a request is dropped, and that request the last."""
    gate = Gate(_stop_once_then_echo)
    async with edge(gate) as served:
        client = await served.connect()
        if stage == "behind a request":
            client.send(post(b"first"))
            await gate.reached.wait()
        client.send(post(b"some body")[:-4])
        heads = served.server.shared.heads
        await until(lambda: heads.size_bytes > 0)
        (connection,) = heads._sizes
        connection.end_head()
        assert heads.size_bytes == 0
        gate.opened.set()
        if stage == "behind a request":
            client.send(b"body")
            seen = await client.answer()
            assert (seen.body, seen.last) == (b"metered first", True)
            await client.closed()
        else:
            assert not in_front(served)
            client.send(b"body")
            assert (await client.answer()).body == b"metered some body"


@with_the_front
async def test_what_fails_after_its_end_does_not_concern_the_next_request() -> None:
    async with edge(echo) as served:
        front = served.server.front

        def fails_at_its_end(exchange: Exchange, on_over: Callable[[], None]) -> Begun:
            protocol.front = front
            exchange.answer(200, b"", b"first")
            on_over()
            raise ValueError

        client = await served.connect()
        client.send(post(b"zeroth"))
        assert (await client.answer()).body == b"metered zeroth"
        (protocol,) = served.server.connections
        assert isinstance(protocol, FrontProtocol)
        protocol.front = replace(front, begin=fails_at_its_end)
        client.send(post(b"first"), post(b"second"))
        assert (await client.answer()).body == b"first"
        assert (await client.answer()).body == b"metered second"


@with_the_front
async def test_a_connection_that_is_lost_is_not_given_away() -> None:
    """Its client leaves as its body has been awaited long enough: aiohttp's loop would begin on what has ended."""
    async with edge(echo) as served:
        client = await served.connect()
        client.send(post(b"some body")[:-4])
        await until(lambda: served.server.shared.heads.size_bytes > 0)
        (connection,) = served.server.connections
        assert isinstance(connection, FrontProtocol)
        assert connection.transport is not None
        connection.transport.abort()
        connection._late()
        await served.empty()
        assert served.server.shared.heads.size_bytes == 0


@with_the_front
async def test_a_connection_comes_back_only_while_it_is_read() -> None:
    """What has many lines is parsed in slices, with reading paused; the last slice here is a plain request alone."""
    async with edge(echo) as served:
        client = await served.connect()
        client.send(get("/plain?x"))
        await client.answer()
        assert not in_front(served)
        slice_bytes = SLICE_BYTES // 4
        head_bytes = len(post(b"x" * slice_bytes)) - slice_bytes
        first = b"\r\n" * 200 + b"x" * (slice_bytes - head_bytes - 400)
        last = b"\r\n" * 100
        assert len(post(first)) == slice_bytes
        client.send(post(first), post(last))
        for body in (first, last):
            assert (await client.answer()).body == b"metered " + body
        client.send(post(b"more"))
        assert (await client.answer()).body == b"metered more"
        assert in_front(served)


@pytest.mark.parametrize(("sent", "answer"), [(chunked(b"ab"), b"metered ab"), (get("/plain?x"), b"plain x")])
@with_the_front
async def test_what_is_given_away_as_the_server_stops_is_served(sent: bytes, answer: bytes) -> None:
    async with edge(echo) as served:
        client = await served.connect()
        client.send(post(b"plain"))
        await client.answer()
        (connection,) = served.server.connections
        connection.data_received(sent)
        served.server.pre_shutdown()
        seen = await client.answer()
        assert seen.body == answer
        await client.closed()


def test_a_taken_request_does_not_show_its_key() -> None:
    lines = b"POST / HTTP/1.1\r\nAuthorization: Bearer mg_secret"
    head = KnownHead("/", cast("Any", None), cast("Any", None), ())
    assert "secret" not in repr(Taken(head, b"", lines, 60, 4))


@on_both_loops
async def test_the_server_waits_for_a_body_that_was_on_its_way_as_it_stops() -> None:
    async with edge(echo, shutdown_timeout=10.0) as served:
        client, mute = await served.connect(), await served.connect()
        client.send(post(b"some body")[:-4])
        await until(lambda: bool(served.ways) or served.server.shared.heads.size_bytes > 0)
        stopping = asyncio.create_task(served.runner.cleanup())
        await mute.closed()
        client.send(b"body")
        seen = await client.answer()
        assert (seen.body, seen.last) == (b"metered some body", True)
        await client.closed()
        await stopping


@on_both_loops
async def test_a_server_that_stops_does_not_wait_longer_for_a_body() -> None:
    async with edge(echo, shutdown_timeout=0.05) as served:
        client = await served.connect()
        client.send(post(b"some body")[:-4])
        await until(lambda: bool(served.ways) or served.server.shared.heads.size_bytes > 0)
        await served.runner.cleanup()
        with pytest.raises(Cut):
            await client.answer()


@on_both_loops
async def test_a_body_above_the_bound_of_its_reader() -> None:
    async def small(exchange: Exchange) -> None:
        try:
            exchange.answer(200, b"", exchange.here(3) or await exchange.read(3))
        except BodyTooLarge:
            exchange.answer(413, b"", b"")

    async with edge(small) as served:
        client = await served.connect()
        for body, status in ((b"123", 200), (b"1234", 413), (b"123", 200)):
            client.send(post(body))
            assert (await client.answer()).status == status


@with_the_front
async def test_connections_that_are_only_plain_make_no_connection_of_aiohttp_s() -> None:
    made: list[Any] = []
    async with edge(echo) as served:
        behind = served.server.behind
        object.__setattr__(served.server.front, "behind", lambda: made.append(1) or behind())  # type: ignore[func-returns-value]
        for _ in range(5):
            client = await served.connect()
            for _ in range(3):
                client.send(post(b"x" * 1_000))
                await client.answer()
            await client.leave()
        await served.empty()
        assert made == []


async def test_a_remembered_head_shows_the_key_of_its_client_and_no_other(gateway: Gateway) -> None:
    """As long as it is usable, and with its own tags; nothing in memory holds the key but the request itself."""
    first, second = await gateway.customer(), await gateway.customer()
    runner: Any = gateway.runner
    heads = runner.server.front.heads
    client = await connect(gateway)
    for _ in range(4):
        for customer in (first, second):
            body = b'{"model": "demo", "messages": [{"role": "user", "content": "Say something."}]}'
            lines = (f"Authorization: Bearer {customer.key}", "Content-Type: application/json", "X-Metergate-Tags: a=b")
            client.send(post(body, *lines, path="/v1/chat/completions"))
            assert (await client.answer()).status == 200
    assert len(heads) == 2
    for customer in (first, second):
        events = await customer.events()
        assert [event["tags"] for event in events] == [{"a": "b"}] * 4
        for known in heads._young.values():
            assert customer.key not in repr((known.headers, known.raw_headers, known.kept_facts))
            assert len(known.kept_facts) == 2  # what was read of it, and its lines for the provider
    await gateway.runtime.services.keys.revoke(first.key_id)
    for customer, status in ((first, 401), (second, 200)):
        client.send(
            post(
                body,
                f"Authorization: Bearer {customer.key}",
                "Content-Type: application/json",
                "X-Metergate-Tags: a=b",
                path="/v1/chat/completions",
            )
        )
        assert (await client.answer()).status == status
    await client.leave()


def test_the_own_api_is_never_read_here_and_has_no_metered_path():
    request = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    assert split(request % b"api/service/debits")[1] == -1
    assert split(request % b"apis")[1] == 2
    paths = [endpoint.path for dialect in make_dialects(StructureBounds()).all for endpoint in dialect.endpoints]
    assert paths
    assert not any(f"POST {path}".encode().startswith(OWN_API) for path in paths)
