"""Streams that are pumped into a sink: every byte, in order, at the client's pace, to an end."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.upstream.base import UpstreamCut
from gateway.upstream.transport import BUFFER_BYTES, Response
from tests.support.fed_connections import OK, Wire, settle

LARGE = BUFFER_BYTES + 1
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


async def pumped(answer: Response, stalls: Callable[[int], bool]) -> tuple["asyncio.Task[None]", list[bytes]]:
    """Pump an answer into a list; `stalls` says after which piece the client has to be waited for."""
    pieces: list[bytes] = []

    def sink(piece: bytes) -> bool:
        pieces.append(piece)
        return not stalls(len(pieces))

    async def drained() -> None:
        await settle()

    task = asyncio.create_task(answer.pump(sink, drained))
    await settle()
    return task, pieces


async def reading(wire: Wire) -> None:
    """Once the client has caught up, the provider is read again."""
    for _ in range(10):
        if wire.paused:
            await settle()
    assert not wire.paused, "nobody reads any more"


async def ended(task: "asyncio.Task[None]") -> None:
    """The pump has come to its end; what it raised."""
    for _ in range(10):
        await settle()
    if not task.done():
        task.cancel()
        pytest.fail("the pump waits for ever")
    await task


@pytest.mark.parametrize("first", [0, 1, 100, LARGE, 3 * LARGE])
@pytest.mark.parametrize("stalls", [lambda _: False, lambda _: True, lambda n: n % 2 == 0, lambda n: n == 1])
@pytest.mark.parametrize("size", [1, 1_000, BUFFER_BYTES, LARGE])
async def test_a_stream_is_pumped_to_its_end(first, stalls, size):
    """However large its segments and whenever the client falls behind; `first` comes with the head."""
    body = bytes(range(256)) * 1_600 if size > 1 else b"some body"
    first = min(first, len(body))
    wire = Wire()
    asking = await wire.ask()
    wire.feed(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body[:first])
    answer = await asking
    task, pieces = await pumped(answer, stalls)
    for start in range(first, len(body), size):
        await reading(wire)
        wire.feed(body[start : min(start + size, len(body))])
    await ended(task)
    assert b"".join(pieces) == body
    answer.release()
    assert wire.connection.usable


@pytest.mark.parametrize("stalls", [lambda _: False, lambda _: True])
async def test_a_stream_that_breaks_while_it_is_pumped(stalls):
    """What came before is delivered before it is raised."""
    wire = Wire()
    asking = await wire.ask()
    wire.feed(CHUNKED + b"3\r\none\r\n")
    answer = await asking
    task, pieces = await pumped(answer, stalls)
    await reading(wire)
    wire.feed(b"3\r\ntwo\r\nnonsense\r\n")
    with pytest.raises(UpstreamCut):
        await ended(task)
    assert pieces == [b"one", b"two"]


async def test_after_what_a_sink_raises_the_rest_can_be_read():
    """Also where more had come than is kept, so that the provider was not read."""
    wire = Wire()
    asking = await wire.ask()
    wire.feed(OK + b"Content-Length: %d\r\n\r\n" % (LARGE + 4) + b"x" * LARGE)
    answer = await asking
    assert wire.paused

    def sink(_: bytes) -> bool:
        raise ValueError("no")

    async def drained() -> None: ...

    with pytest.raises(ValueError, match="no"):
        await answer.pump(sink, drained)
    assert not wire.paused
    wire.feed(b"rest")
    assert [piece async for piece in answer.chunks()] == [b"rest"]


async def test_what_a_sink_raises_ends_the_pump():
    wire = Wire()
    asking = await wire.ask()
    wire.feed(CHUNKED + b"3\r\none\r\n")
    answer = await asking

    def sink(piece):
        if piece == b"two":
            raise ValueError("of the test")
        return True

    async def drained(): ...

    task = asyncio.create_task(answer.pump(sink, drained))
    await settle()
    wire.feed(b"3\r\ntwo\r\n", b"5\r\nthree\r\n")
    with pytest.raises(ValueError, match="of the test"):
        await ended(task)
    answer.release()
    assert wire.aborted


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_pump_that_was_cancelled_leaves_the_rest_to_be_read(stalled):
    """A client that leaves, and a provider that is read to its end all the same."""
    wire = Wire()
    asking = await wire.ask()
    wire.feed(CHUNKED + b"3\r\none\r\n")
    answer = await asking

    async def drained():
        await asyncio.Event().wait()

    task = asyncio.create_task(answer.pump(lambda _: not stalled, drained))
    await settle()
    if not stalled:
        wire.feed(b"3\r\ntwo\r\n")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not wire.paused, "nobody reads any more"
    wire.feed(b"5\r\nthree\r\n0\r\n\r\n")
    assert b"".join([chunk async for chunk in answer.chunks()]) == b"three"
