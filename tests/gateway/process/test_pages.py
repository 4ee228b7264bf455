"""Connections that ask for pages go to a process of their own, and nothing else does; nobody's is lost on the way."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from gateway.process import pages as pages_apart
from gateway.process.pages import (
    ABSENT,
    BEAT,
    BEAT_AT,
    MOST_BYTES,
    SERVING,
    STARTING,
    WAKE,
    Channel,
    Hand,
    adopting,
)
from gateway.process.supervisor import _channel
from gateway.server.guard import EdgeRules
from tests.support.edge_clients import Client, chunked, get, post, until
from tests.support.edge_servers import Edge, echo, edge, on_both_loops

# What pages of these tests say of who made them: their server's limit of connections.
WORKER, PAGES = b"1001", b"1002"


@dataclass
class Pair:
    """A worker, and the process of pages while it `runs`; in one process, but over what would be between two."""

    channel: Channel
    worker: Edge
    pages: Edge
    ended: asyncio.Event

    @asynccontextmanager
    async def runs(self, idle_s: float = 3600.0) -> AsyncIterator[None]:
        first, second = map(os.dup, self.channel.adopt_fds)
        async with adopting((first, second), self.pages.server, idle_s, self.ended.set):
            os.close(second)
            yield

    @property
    def state(self) -> int:
        return self.channel._state[0]

    def seem_to_serve(self, ago_s: float = 0.0) -> None:
        """Have the state of a process that was last seen to run so long ago."""
        BEAT.pack_into(self.channel._state, BEAT_AT, time.monotonic() - ago_s)
        self.channel._state[0] = SERVING

    @property
    def connections(self) -> list[Any]:
        """The worker's."""
        return list(self.worker.server.connections)

    @property
    def head_bytes(self) -> int:
        """What the worker has of heads that are not whole."""
        return self.worker.server.shared.heads.size_bytes

    async def ask(self, sent: bytes, client: Client | None = None) -> tuple[bytes, bool]:
        """Who answers with a page, which has to say where the client is; and whether its connection ends with that."""
        used = client or await self.worker.connect()
        used.send(sent)
        told = await self.page_of(used)
        if client is None:
            await used.leave()
            await self.worker.empty()
        return told

    async def page_of(self, client: Client) -> tuple[bytes, bool]:
        seen = await client.answer()
        who, port, rest = seen.body.split(b" ", 2)
        assert (seen.status, int(port)) == (200, client.writer.get_extra_info("sockname")[1])
        if seen.last:
            await client.closed()
        return who + rest, seen.last


@pytest.fixture(autouse=True)
def silent_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no process that hangs."""
    monkeypatch.setattr(pages_apart, "SILENT_S", 60.0)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    channel = Channel()
    given, state = map(os.dup, channel.hand_fds)
    hand = Hand(given, state)
    os.close(state)
    try:
        async with (
            edge(echo, rules=EdgeRules(max_connections=int(WORKER)), hand=hand) as worker,
            edge(echo, rules=EdgeRules(max_connections=int(PAGES))) as pages,
        ):
            yield Pair(channel, worker, pages, asyncio.Event())
            await pages.empty()
    finally:
        hand.close()
        channel.close()


def test_a_full_disk_or_none_does_not_matter_to_the_state(monkeypatch):
    """To touch a page that the disk has no room for ends a process, by SIGBUS."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere" if hasattr(os, "memfd_create") else None)
    channel = Channel()
    assert os.fstat(channel.hand_fds[1]).st_blocks > 0
    channel.close()


def test_a_system_that_has_nothing_to_share_leaves_pages_to_workers(monkeypatch, caplog):
    def refuse(name):
        raise PermissionError(f"no {name}")

    monkeypatch.setattr("os.memfd_create", refuse, raising=False)
    channel = _channel()
    assert channel is not None  # a file of the disk will do
    channel.close()
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert _channel() is None
    assert len(caplog.messages) == 1


@on_both_loops
async def test_where_connections_can_not_be_given_away_it_is_said_once(monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError("no sendmsg")

    async with pair() as both, both.runs():
        monkeypatch.setattr("socket.send_fds", refuse)
        for _ in range(2):
            assert await both.ask(get("/console/page")) == (WORKER, False)
    assert [each.name for each in caplog.records] == ["gateway.process.pages"]


@on_both_loops
async def test_a_page_is_made_in_the_other_process_and_ends_its_connection():
    """A reverse proxy would keep it, and send all its requests there."""
    async with pair() as both, both.runs():
        kept = await both.worker.connect()
        kept.send(get())
        assert (await kept.answer()).body == b"plain "
        kept.send(post(b"x"))
        assert (await kept.answer()).body == b"metered x"
        for client in (kept, None):
            assert await both.ask(get("/console/page?x=%20"), client) == (PAGES, True)
        for sent in (post(b"form", path="/console/page"), chunked(b"fo", b"rm", path="/console/page")):
            assert await both.ask(sent) == (PAGES + b"form", True)
        half = await both.worker.connect()
        half.send(get("/console/page"))
        half.writer.write_eof()
        assert await both.page_of(half) == (PAGES, True)
        slow = await both.worker.connect()
        slow.send(post(b"form", path="/console/page")[:-2])
        await both.worker.empty()
        await slow.send_slowly(b"rm", 1)
        assert await both.page_of(slow) == (PAGES + b"form", True)
        two = await both.worker.connect()
        two.send(get("/console/page") + post(b"x")[:20])
        await both.worker.empty()
        two.send(post(b"x")[20:])  # is no request that the process of pages serves
        assert (await two.answer()).last
        assert await two.rest() == b""
        assert both.pages.ways == []


@on_both_loops
async def test_what_is_no_page_or_not_alone_stays():
    async with pair() as both, both.runs():
        page = get("/console/page")
        for sent in (
            get("/console/page", "Connection: Upgrade", "Upgrade: websocket"),
            b"\r\n" + page,
            post(b"", path="/console/page").replace(b"POST", b"PUT"),
            post(b"x" * MOST_BYTES, path="/console/page"),
        ):
            assert (await both.ask(sent))[0].startswith(WORKER)
        for cut in (5, len(page) // 2, len(page) - 1):
            client = await both.worker.connect()
            await until(lambda: bool(both.connections))
            client.send(page[:cut])
            await until(lambda cut=cut: both.head_bytes == cut)
            assert await both.ask(page[cut:], client) == (WORKER, False)
            await client.leave()
            await both.worker.empty()
        client = await both.worker.connect()
        await until(lambda: bool(both.connections))
        client.send(page.partition(b"\n")[0] + b"\nX-Value: ")
        await until(lambda: both.head_bytes > 0)
        assert await both.ask(page, client) == (WORKER, False)  # where `page` alone would be another request
        client.send(page + post(b"x") + page)
        assert (await both.page_of(client), (await client.answer()).body) == ((WORKER, False), b"metered x")
        assert await both.page_of(client) == (WORKER, False)
        client.send(get("/plain/console"))
        assert (await client.answer()).status == 404
        client.send(b"GET /console/page HTTP/1.1\r\nno header\r\n\r\n")
        assert (await client.answer()).status == 400


@on_both_loops
async def test_a_look_starts_the_process_and_waits_for_nothing():
    async with pair() as both:
        stopping = asyncio.Event()
        started = asyncio.ensure_future(both.channel.looked_at(stopping))
        for _ in range(2):
            assert await both.ask(get("/console/page")) == (WORKER, False)
        await started
        assert both.state == STARTING
        assert await both.ask(get("/console/page")) == (WORKER, False)
        async with both.runs(idle_s=0.01):
            client = await both.worker.connect()
            assert await both.ask(get("/console/page"), client) == (PAGES, True)
            await both.ended.wait()
            clients = [await both.worker.connect() for _ in range(5)]
            await until(lambda: len(both.worker.server.connections) == 5)
            for client in clients:
                client.send(get("/console/page"))
            await both.worker.empty()
        assert [await both.page_of(client) for client in clients] == [(PAGES, True)] * 5
        assert both.channel.ended()
        assert await both.ask(get("/console/page")) == (WORKER, False)
        await both.channel.looked_at(stopping)  # it is asked for again
        both.channel.ended()
        stopping.set()
        await both.channel.looked_at(stopping)


@on_both_loops
async def test_what_a_killed_process_has_not_taken_its_successor_serves():
    async with pair() as both:
        both.seem_to_serve()  # and nobody reads
        waiting = []
        while not (answered := len(waiting) and both.worker.server.requests_count):
            assert len(waiting) < 5_000
            waiting.append(await both.worker.connect())
            waiting[-1].send(get("/console/page"))
            await until(lambda: both.worker.server.requests_count > 0 or not both.worker.server.connections)
        assert answered
        assert await both.page_of(waiting.pop()) == (WORKER, False)  # the queue was full
        assert not both.channel.ended()
        await asyncio.wait_for(both.channel.looked_at(asyncio.Event()), 10)
        fds = psutil.Process().num_fds()
        async with both.runs():
            assert [await both.page_of(client) for client in waiting] == [(PAGES, True)] * len(waiting)
        assert psutil.Process().num_fds() <= fds + 2


@on_both_loops
async def test_who_waits_for_a_process_that_does_not_come_is_told():
    async with pair() as both:
        both.seem_to_serve()
        client = await both.worker.connect()
        client.send(get("/console/page"))
        await both.worker.empty()
        both.channel._given.send(WAKE)
        both.channel._state[0] = STARTING
        assert not both.channel.ended()
        assert both.state == ABSENT
        await client.closed()
        assert await both.ask(get("/console/page")) == (WORKER, False)


@on_both_loops
async def test_a_process_that_hangs_is_given_nothing(monkeypatch):
    async with pair() as both:
        both.seem_to_serve(ago_s=61.0)
        assert await both.ask(get("/console/page")) == (WORKER, False)
        monkeypatch.setattr(pages_apart, "BEAT_S", 0.001)
        async with both.runs():
            seen = BEAT.unpack_from(both.channel._state, BEAT_AT)
            await until(lambda: BEAT.unpack_from(both.channel._state, BEAT_AT) > seen)
            assert await both.ask(get("/console/page")) == (PAGES, True)
