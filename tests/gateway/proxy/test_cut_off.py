"""Requests that their owner ends: a client that takes nothing, or one that takes too long. They are cut and settled."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from gateway.proxy.detached import Running
from gateway.server.exchange import Exchange
from gateway.server.guard import EdgeRules
from gateway.server.stalls import LOOKS
from tests.gateway.conftest import chat
from tests.support.answering import SSE, answer, delta, saying, until
from tests.support.clients import asking_by_hand, the_event_in_the_end
from tests.support.edge_clients import post
from tests.support.edge_clients import until as soon
from tests.support.edge_servers import edge, on_both_loops
from tests.support.gateways import INPUT, OUTPUT, ask, spent_nano
from tests.support.passed_answers import STREAM

WORDS_OF_A_CHUNK = 2_000
MANY_WORDS = delta(" word" * WORDS_OF_A_CHUNK)


class Endless:
    """A provider that streams for as long as anybody takes it; it notes that it was cut off."""

    def __init__(self, piece: bytes = MANY_WORDS, pause_s: float = 0.0) -> None:
        self.gone = 0
        self._piece = piece
        self._pause_s = pause_s

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        try:
            while request.transport is not None:
                await response.write(self._piece)
                await asyncio.sleep(self._pause_s)
        except ConnectionError:
            pass
        self.gone += 1
        return response


async def test_a_client_that_takes_nothing_is_cut_off_and_charged(make_gateway, upstream):
    """While it pauses, nobody can see that its provider is silent: only this ends it, and frees the connection."""
    provider = Endless()
    gateway = await make_gateway(
        await upstream(provider.serve), client_write_timeout_s=0.2, disconnect_drain_s=0, upstream_timeout_s=600
    )
    customer = await gateway.customer()
    async with asking_by_hand(customer, STREAM) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: bool(provider.gone))
        found = await the_event_in_the_end(customer)
    assert (found["estimated"], found["note"]) == (True, "client_stalled")
    assert found["output_tokens"] > WORDS_OF_A_CHUNK


async def test_an_answer_that_is_paid_for_is_not_kept_for_a_client_that_does_not_take_it(make_gateway, upstream):
    """Its last bytes wait: the connection ends, and nothing more is charged."""
    size = 20_000_000
    gateway = await make_gateway(await upstream(saying(answer("x" * size))), client_write_timeout_s=0.2)
    customer = await gateway.customer()
    async with asking_by_hand(customer, chat(model="gpt-4o-mini")) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        found = await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT)
        runner: Any = gateway.runner
        await until(lambda: not runner.server.connections)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        taken = 0
        with suppress(ConnectionError):
            while part := await reader.read(1 << 20):
                taken += len(part)
    assert taken < size
    assert found["estimated"] is False
    assert await spent_nano(customer) == 10 * INPUT + 5 * OUTPUT


@on_both_loops
async def test_a_stream_s_end_that_is_not_taken_is_not_kept():
    async def ends(exchange):
        exchange.begin(200, b"")
        exchange.finish(b"x" * 20_000_000)

    async with edge(ends, rules=EdgeRules(client_write_timeout_s=0.1)) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(post())
        await soon(lambda: bool(served.ways))
        await served.empty()


class Clock:
    """An event loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> SimpleNamespace:
        timer = (self.now_s + delay_s, callback, arguments)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer) if timer in self.timers else None)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until_s = self.now_s + seconds
        while self.timers and min(self.timers)[0] <= until_s:
            timer = min(self.timers, key=lambda each: each[0])
            self.timers.remove(timer)
            self.now_s = timer[0]
            timer[1](*timer[2])
        self.now_s = until_s


async def test_only_bytes_that_left_keep_a_client_that_has_to_catch_up():
    """However slowly it reads, and however far it stays behind; a byte a minute is enough, none is not."""
    clock, waiting = Clock(), asyncio.get_running_loop().create_future()
    transport = SimpleNamespace(left=1_000_000, aborted=False)
    transport.get_write_buffer_size = lambda: transport.left
    transport.get_extra_info = lambda _: None
    transport.abort = lambda: setattr(transport, "aborted", True)

    async def drained():
        await waiting

    protocol = SimpleNamespace(_loop=clock, transport=transport, _paused=True, _drain_helper=drained)
    message = SimpleNamespace(path="/", headers={}, raw_headers=(), version=(1, 1), should_close=False, chunked=False)
    payload = None
    exchange = Exchange(protocol, message, payload, None)
    assert exchange.client_write_timeout_s == 60.0
    flushing = asyncio.create_task(exchange.flushed())
    await asyncio.sleep(0)
    for _ in range(100):
        transport.left -= 1
        clock.run(59.0 - 60.0 / LOOKS)
        assert not transport.aborted
    transport.left += 10_000  # more to be taken is nothing taken
    clock.run(60.0 / LOOKS - 1.0)
    assert not transport.aborted
    clock.run(60.0)
    assert transport.aborted
    assert exchange.cut_for == "client_stalled"
    waiting.set_result(None)
    await flushing
    assert clock.timers == []


@on_both_loops
async def test_a_pause_that_ends_in_time_costs_nothing():
    async def large(exchange):
        exchange.begin(200, b"")
        for _ in range(100):
            if not exchange.put(b"x" * 100_000):
                await exchange.flushed()
        exchange.finish(b"")

    async with edge(large) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(post())
        await soon(lambda: any(each.writing_paused for each in served.server.connections))
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.answer()).body) == 10_000_000


async def trickle(request: web.Request) -> web.StreamResponse:
    """A JSON answer that never comes to its end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while request.transport is not None:
        await response.write(b" ")
        await asyncio.sleep(0.01)
    return response


async def silence(request: web.Request) -> web.StreamResponse:
    """No head of an answer."""
    await until(lambda: request.transport is None)
    return web.Response()


@pytest.fixture
def expire(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets `max_request_s` go by for all requests that run."""
    made: list[Running] = []
    begin = Running.__init__

    def remember(self: Running, max_s: float) -> None:
        begin(self, max_s)
        made.append(self)

    def expire() -> None:
        for running in made:
            running._max_s = 0.0
            running._look()

    monkeypatch.setattr(Running, "__init__", remember)
    return expire


@pytest.mark.parametrize(
    ("reply", "fields"),
    [
        (Endless(delta("word "), 0.01).serve, {"stream": True}),
        (Endless(MANY_WORDS).serve, {"stream": True}),
        (trickle, {}),
        (silence, {}),
        (silence, {"stream": True}),
    ],
    ids=["a stream", "a fast stream", "a JSON body", "a JSON answer's head", "a stream's head"],
)
async def test_a_request_ends_at_max_request_s_and_is_charged(
    make_gateway,
    upstream,
    expire,
    reply,
    fields,
):
    """Whatever it waits for; it is not read on then."""
    arrived = asyncio.Event()

    async def serve(request):
        arrived.set()
        return await reply(request)

    writes = bool(fields) and reply is not silence
    gateway = await make_gateway(await upstream(serve), disconnect_drain_s=600)
    customer = await gateway.customer("50.00")
    body = chat(model="gpt-4o-mini", max_tokens=16_000, **fields)
    async with asking_by_hand(customer, body) as (reader, _):
        await arrived.wait()
        if writes:
            await reader.readuntil(b"word ")
        expire()
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
    found = await the_event_in_the_end(customer, of_usd="50.00")
    assert (found["estimated"], found["note"]) == (True, "max_request_s")
    assert found["input_tokens"] > 0
    assert bool(found["output_tokens"]) == writes


async def test_a_slow_reader_of_a_settled_answer_ends_at_max_request_s(make_gateway, upstream, expire):
    """It takes a little all the time, so that only this ends it."""
    gateway = await make_gateway(await upstream(saying(answer("x" * 30_000_000))))
    customer = await gateway.customer()
    taken = 0
    async with asking_by_hand(customer, chat(model="gpt-4o-mini")) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT)
        expire()
        with suppress(ConnectionError):
            while part := await reader.read(1 << 16):
                taken += len(part)
    assert taken < 30_000_000
    assert await spent_nano(customer) == 10 * INPUT + 5 * OUTPUT


async def test_the_oldest_request_is_looked_at_first_and_one_timer_is_enough():
    running = Running(0.05)
    cut = []

    def exchange(name):
        return _Cuttable(name, cut)

    first, second, third = map(exchange, ("first", "second", "third"))
    running.begin(first)
    running.begin(second)
    running.end(first)
    async with asyncio.timeout(60):
        while not cut:
            await asyncio.sleep(0.01)
        running.end(second)
        running.begin(third)
        while len(cut) < 2:
            await asyncio.sleep(0.01)
    assert cut == [("second", "max_request_s"), ("third", "max_request_s")]


class _Cuttable:
    def __init__(self, name: str, cut: list[tuple[str, str]]) -> None:
        self.name = name
        self._cut = cut

    def cut(self, reason: str) -> None:
        self._cut.append((self.name, reason))


async def test_a_request_within_its_time_is_not_touched(make_gateway, upstream):
    gateway = await make_gateway(await upstream(saying(answer())), max_request_s=600)
    customer = await gateway.customer()
    for _ in range(3):
        assert (await ask(customer)).status == 200
    assert b"metergate_holds_live 0.0" in await gateway.metrics()
    assert json.loads((await ask(customer)).body) == answer()
