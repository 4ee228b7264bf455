"""How fast bodies are taken: all together no faster than the pace, and one account's no sooner than another's."""

import asyncio
import gzip
import hashlib

import pytest

from gateway.server.exchange import Exchange
from gateway.server.guard import EdgeRules
from gateway.server.paced import BURST_S, SLICE_LINES, Pace, PacedProtocol
from tests.support.edge_clients import ENCODED, METERED, chunked, get, post, until
from tests.support.edge_servers import edge, on_both_loops

pytestmark = pytest.mark.slow

MIB = 1 << 20
# The most that an event loop takes from a connection at once.
PIECE_BYTES = 256 * 1024


async def swallow(exchange: Exchange) -> None:
    body = await exchange.read(64 * MIB)
    exchange.answer(200, b"", b"%d" % len(body))


def never() -> None:
    pytest.fail("nobody waits for this")


async def test_accounts_take_turns_however_many_of_their_connections_wait():
    pace, went_on = Pace(100_000, asyncio.get_running_loop()), []
    assert pace.spend(int(100_000 * BURST_S) + 20_000, "first", never)
    for name in ("first", "first", "first", "second", "third", "second"):
        assert not pace.spend(500, name, lambda name=name: went_on.append(name))
    await until(lambda: len(went_on) == 6)
    assert went_on == ["first", "second", "third", "first", "second", "first"]
    assert not pace._rows
    assert pace._timer is None


async def test_what_came_after_a_rest_is_taken_at_once_and_no_more_than_that():
    loop = asyncio.get_running_loop()
    pace, more = Pace(1_000_000, loop), loop.create_future()
    began_s = loop.time()
    while pace.spend(10_000, "", lambda: more.set_result(None)):
        pass
    assert pace._free_at_s - began_s >= BURST_S
    await more
    assert loop.time() - began_s >= BURST_S


@pytest.mark.parametrize("path", [METERED, "/nothing"])
@on_both_loops
async def test_bodies_are_taken_no_faster_than_the_pace(path):
    """Of all connections together, whether bodies are read or refused."""
    loop, rate = asyncio.get_running_loop(), 8 * MIB
    async with edge(swallow, rules=EdgeRules(body_bytes_per_s=rate, linger_s=30.0)) as served:
        began_s = loop.time()
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            client.send(post(b"x" * (2 * MIB), path=path))
        for client in clients:
            assert (await client.answer()).status == (200 if path == METERED else 404)
            client.send(get())
        for client in clients:
            assert (await client.answer()).status == 200
        free_bytes = rate * BURST_S + 2 * PIECE_BYTES * len(clients)  # the first piece and the last cost no wait
        assert loop.time() - began_s >= (6 * MIB - free_bytes) / rate


@on_both_loops
async def test_chunks_cost_more_than_their_bytes():
    """A megabyte of them that came in small pieces would cost a second of the event loop."""
    loop, chunks = asyncio.get_running_loop(), 60_000
    async with edge(swallow, rules=EdgeRules(body_bytes_per_s=16 * MIB)) as served:
        client = await served.connect()
        client.send(get())
        assert (await client.answer()).status == 200
        began_s = loop.time()
        client.send(chunked(*[b"x"] * chunks))
        assert (await client.answer()).body == b"%d" % chunks
        most_free_s = BURST_S + PIECE_BYTES // 6 * 512 / (16 * MIB)
        assert loop.time() - began_s >= chunks * 512 / (16 * MIB) - most_free_s


@on_both_loops
async def test_what_is_decoded_counts_as_what_is_received():
    loop, rate, size = asyncio.get_running_loop(), 8 * MIB, 4 * MIB
    async with edge(swallow, rules=EdgeRules(body_bytes_per_s=rate)) as served:
        began_s = loop.time()
        client = await served.connect()
        client.send(post(gzip.compress(bytes(size)), "Content-Encoding: gzip"))
        assert (await client.answer()).body == b"%d" % size
        assert loop.time() - began_s >= (size - rate * BURST_S - PIECE_BYTES) / rate


@pytest.mark.parametrize("path", [METERED, ENCODED, "/nothing"])
@on_both_loops
async def test_many_chunks_that_come_at_once_are_parsed_little_by_little(path):
    """Each slice in a turn of its own, in order, and no byte is lost."""
    turns, slices, chunks = 0, list[tuple[int, int]](), 30_000

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def parse(self, data):
        slices.append((turns, data.count(b"\r\n")))
        whole(self, data)

    whole = PacedProtocol._parse
    async with edge(sum_up, rules=EdgeRules(linger_s=30.0)) as served:
        client = await served.connect()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PacedProtocol, "_parse", parse)
            counting = asyncio.create_task(count())
            parts = [b"%04d" % (number % 10_000) for number in range(chunks)]
            client.send(chunked(*parts, path=path))
            seen = await client.answer()
            counting.cancel()
        assert path == "/nothing" or seen.body == hashlib.sha256(b"".join(parts)).hexdigest().encode()
        assert max(lines for _, lines in slices) <= SLICE_LINES
        if path != "/nothing":
            assert len({turn for turn, lines in slices if lines}) >= chunks * 2 // SLICE_LINES


async def sum_up(exchange: Exchange) -> None:
    exchange.answer(200, b"", hashlib.sha256(await exchange.read(64 * MIB)).hexdigest().encode())


@pytest.mark.parametrize("reset", [False, True])
@on_both_loops
async def test_a_client_that_leaves_while_it_has_to_wait(reset):
    async with edge(swallow, rules=EdgeRules(body_bytes_per_s=8 * MIB)) as served:
        client = await served.connect()
        client.send(post(b"x" * (16 * MIB)))
        await until(lambda: any(getattr(each, "_resting", False) for each in served.server.connections))
        client.writer.transport.abort()
        await client.leave(reset=reset)
        await served.empty()
        other = await served.connect()
        other.send(get())
        assert (await other.answer()).status == 200
