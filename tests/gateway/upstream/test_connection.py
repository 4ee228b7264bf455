"""One connection to a provider: which answers are whole, what bounds it, when it serves again."""

import asyncio

import pytest

from gateway.upstream.base import UpstreamCut, UpstreamTimeout, UpstreamTooLarge, UpstreamUnreachable
from gateway.upstream.transport import BUFFER_BYTES, JOINED_BYTES, MAX_BARE_BYTES, MAX_INTERIM, StaleConnection
from tests.support.fed_connections import LIMIT_BYTES, NONE, OK, PLAIN, Outcome, Wire, outcome, settle

LARGE = BUFFER_BYTES + 1
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = CHUNKED + b"2\r\nok\r\n0\r\n"


async def test_a_request_goes_out_as_it_is_given():
    for size in (0, 10, JOINED_BYTES, JOINED_BYTES + 1):
        wire = Wire()
        asking = asyncio.create_task(wire.connection.send(b"head\r\n\r\n", b"x" * size, 0.0))
        await asyncio.sleep(0)
        assert b"".join(wire.sent) == b"head\r\n\r\n" + b"x" * size
        assert len(wire.sent) == (2 if size > JOINED_BYTES else 1)
        wire.feed(PLAIN)
        assert await (await asking).read(2) == b"ok"


async def test_a_connection_serves_one_request_after_another():
    wire = Wire()
    for number in range(5):
        asking = await wire.ask()
        wire.feed(OK + b"X-Number: %d\r\nContent-Length: 1\r\n\r\n%d" % (number, number))
        answer = await asking
        assert answer.headers[0] == (b"X-Number", b"%d" % number)
        assert await answer.read(1) == b"%d" % number
        answer.release()
        answer.release()
        assert wire.connection.usable


# What is whole, and what is kept: by RFC 9112, 6.3, or safer than it.

WHOLE = {
    "a trailer": (CHUNKS + b"X-Trailer: late\r\n\r\n", True),
    "a coding before the chunks": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
    "an offer to upgrade": (OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", True),
    "another version": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "surplus after the last answer": (OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nokmore", False),
    "surplus": (PLAIN + b"more", False),
    "a second answer": (PLAIN + PLAIN, False),
    "a part of a second answer": (PLAIN + b"HTTP/1.1 200 OK\r\nX-Open: ", False),
    "a byte of a second answer": (PLAIN + b"H", False),
    "a late interim answer": (PLAIN + b"HTTP/1.1 100 Continue\r\n\r\n", False),
    "chunks of HTTP/1.0, which has none": (CHUNKS.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n", False),
}


@pytest.mark.parametrize(("data", "kept"), WHOLE.values(), ids=WHOLE)
async def test_answers_that_are_whole(data, kept):
    """Beyond the plain ones. In one segment, and byte by byte."""
    for segments in ([data], [data[place : place + 1] for place in range(len(data))]):
        seen = await outcome(segments, end=False)
        assert (seen.status, seen.body, seen.whole, seen.kept) == (200, b"ok", True, kept)


async def test_http_1_0_that_asks_to_be_kept_is_not_trusted_with_chunks():
    """It has no chunks: whoever sends them across an old proxy can't be sure of their end (RFC 9112, 6.1)."""
    data = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    assert not (await outcome([data], end=False)).kept


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body(status):
    """Whatever their headers say; bytes after the head are surplus."""
    data = b"HTTP/1.1 %d Status\r\nContent-Length: 2\r\n\r\n" % status
    expected = Outcome(status, [(b"Content-Length", b"2")], b"", True, True)
    assert await outcome([data], end=False) == expected
    assert not (await outcome([data + b"ok"], end=False)).kept


CUT = {
    "a coding that is not the chunks'": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\nok",
    "no chunks": OK + b"Transfer-Encoding: identity\r\n\r\nok",
    "a space after a chunk's length": CHUNKED + b"2 \r\nok\r\n0\r\n\r\n",
    "a chunk's length in other digits": CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"2\r\nok!\r\n0\r\n\r\n",
    "no line end after the last chunk": CHUNKED + b"2\r\nok\r\n0\r\n",
    "a length in a trailer": CHUNKS + b"Content-Length: 5\r\n\r\n",
    "a huge length": OK + b"Content-Length: 18446744073709551615\r\n\r\nok",
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
async def test_answers_that_break_off(data):
    seen = await outcome([data], end=True)
    assert (seen.status, seen.whole, seen.kept) == (200, False, False)


NO_ANSWER = {
    "two framings": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two framings, the other way": CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "a signed length": OK + b"Content-Length: +2\r\n\r\nok",
    "an empty length": OK + b"Content-Length:\r\n\r\nok",
    "a length above 64 bits": OK + b"Content-Length: 99999999999999999999\r\n\r\nok",
    "a space before the colon": OK + b"Content-Length : 2\r\n\r\nok",
    "a folded line": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "bare line feeds": PLAIN.replace(b"\r", b""),
    "a control character": OK + b"X: \x01\r\nContent-Length: 2\r\n\r\nok",
    "another protocol": b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nok",
    "a switch without its headers": b"HTTP/1.1 101 Switching\r\n\r\n" + PLAIN,
    "a body of an interim answer": b"HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\nhello" + PLAIN,
    "a status below 100": b"HTTP/1.1 050 Odd\r\n\r\nhello",
    "a status below 100 with a length": b"HTTP/1.1 050 Odd\r\nContent-Length: 2\r\n\r\nok" + PLAIN,
}


@pytest.mark.parametrize("data", NO_ANSWER.values(), ids=NO_ANSWER)
async def test_what_is_no_answer(data):
    for segments in ([data], [data[place : place + 1] for place in range(len(data))]):
        wire = Wire()
        asking = await wire.ask()
        wire.feed(*segments)
        await settle()
        assert wire.aborted, "known by its bytes alone"
        with pytest.raises(UpstreamUnreachable):
            await asking


async def test_a_trailer_is_not_a_header_of_the_next_answer():
    wire = Wire()
    asking = await wire.ask()
    wire.feed(CHUNKS + b"X-Trailer: of another request\r\n\r\n")
    answer = await asking
    assert await answer.read(2) == b"ok"
    answer.release()
    if wire.connection.usable:
        again = await wire.ask()
        wire.feed(PLAIN)
        assert (await again).headers == [(b"Content-Length", b"2")]


@pytest.mark.parametrize("surplus", [b"x", b"\r\n", PLAIN, b"H"])
async def test_bytes_on_an_idle_connection_close_it(surplus):
    wire = Wire()
    assert (await _served(wire)) == b"ok"
    wire.feed(surplus)
    assert not wire.connection.usable


@pytest.mark.parametrize("surplus", [b"x", b"\r\n", PLAIN, b"H"])
async def test_bytes_after_an_answer_s_end_close_its_connection(surplus):
    """It stays whole."""
    wire = Wire()
    asking = await wire.ask()
    wire.feed(PLAIN, surplus)
    answer = await asking
    assert await answer.read(2) == b"ok"
    answer.release()
    assert not wire.connection.usable


async def _served(wire: Wire) -> bytes:
    asking = await wire.ask()
    wire.feed(PLAIN)
    answer = await asking
    body = await answer.read(2)
    answer.release()
    return body


# Bounds.


@pytest.mark.parametrize(("interim", "fine"), [(MAX_INTERIM, True), (MAX_INTERIM + 1, False)])
async def test_interim_answers_are_bounded(interim, fine):
    seen = await outcome([b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" * interim, PLAIN], end=True)
    assert seen == (Outcome(200, [(b"Content-Length", b"2")], b"ok", True, False) if fine else NONE)


async def test_a_head_of_just_the_bound_is_taken():
    value = b"x" * (MAX_BARE_BYTES - 1_000)
    data = OK + b"X-Long: " + value + b"\r\nContent-Length: 2\r\n\r\nok"
    for size in (len(data), 1_000):
        wire = Wire()
        asking = await wire.ask()
        wire.feed(*[data[start : start + size] for start in range(0, len(data), size)])
        assert (await asking).headers[0] == (b"X-Long", value)


ENDLESS = {
    "headers": (OK, b"X-Some: value\r\n" * 70),
    "a header's value": (OK + b"X-Long: ", b"x" * 1_000),
    "a header's name": (OK, b"x" * 1_000),
    "a reason": (OK[:-2], b"x" * 1_000),
    "line ends": (b"", b"\r\n" * 500),
    "interim headers": (b"HTTP/1.1 103 Early\r\n", b"X-Some: value\r\n" * 70),
    "a chunk's extension": (CHUNKED + b"2;", b"x" * 1_000),
    "a trailer's value": (CHUNKS + b"X-Long: ", b"x" * 1_000),
    "trailers": (CHUNKS, b"X-Some: value\r\n" * 70),
    "leading zeros of a chunk's length": (CHUNKED, b"0" * 1_000),
}


@pytest.mark.parametrize(("begun", "more"), ENDLESS.values(), ids=ENDLESS)
async def test_what_is_no_body_is_bounded(begun, more):
    """A provider that sends it without end is no provider that answers: it is never silent."""
    wire = Wire()
    asking = await wire.ask()
    wire.feed(begun)
    fed = 0
    while not wire.aborted and fed < 4 * MAX_BARE_BYTES:
        wire.feed(more)
        fed += len(more)
    assert wire.aborted
    assert fed > MAX_BARE_BYTES // 2 or begun.startswith(CHUNKED)
    try:
        answer = await asking
    except UpstreamUnreachable:
        return
    with pytest.raises(UpstreamCut):
        await answer.read(LIMIT_BYTES)


async def test_reading_stops_until_the_reader_has_caught_up():
    wire = Wire()
    asking = await wire.ask()
    wire.feed(OK + b"\r\n")
    answer = await asking
    wire.feed(b"x" * BUFFER_BYTES)
    assert not wire.paused
    wire.feed(b"y")
    assert wire.paused
    assert await answer.next_piece() == b"x" * BUFFER_BYTES + b"y"
    assert not wire.paused
    wire.feed(b"z")
    assert await answer.next_piece() == b"z"


async def test_a_connection_whose_reading_has_stopped_is_not_kept():
    wire = Wire()
    asking = await wire.ask()
    wire.feed(OK + b"Content-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE)
    answer = await asking
    assert wire.paused
    answer.release()
    assert wire.aborted


async def test_a_large_answer_that_came_at_once_is_read_whole_and_its_connection_kept():
    wire = Wire()
    for _ in range(2):
        asking = await wire.ask()
        wire.feed(OK + b"Content-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE)
        answer = await asking
        assert len(await answer.read(LARGE)) == LARGE
        answer.release()
        assert (wire.aborted, wire.paused) == (False, False)


@pytest.mark.parametrize("line", [b"Content-Length: 101\r\n", b"X: y\r\n"])
async def test_a_whole_read_is_bounded(line):
    wire = Wire()
    asking = await wire.ask()
    wire.feed(OK + line + b"\r\n")
    answer = await asking
    wire.feed(b"x" * (100 if b"Length" in line else 101))
    with pytest.raises(UpstreamTooLarge):
        await answer.read(100)
    answer.release()
    assert wire.aborted


async def test_a_read_that_was_cancelled_is_taken_up_by_another():
    wire = Wire()
    asking = await wire.ask()
    wire.feed(OK + b"Content-Length: 9\r\n\r\none")
    answer = await asking
    first = asyncio.create_task(answer.read(9))
    await settle()
    wire.feed(b"two")
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(answer.read(9))
    await settle()
    wire.feed(b"end")
    assert await second == b"onetwoend"


# Ends.


async def test_a_cancelled_request_that_has_left_is_unanswered():
    wire = Wire()
    asking = await wire.ask()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not wire.aborted
    answer = wire.connection.unanswered
    answer.release()
    assert wire.aborted
    assert wire.connection.unanswered is None


async def test_a_cancelled_request_of_which_a_part_is_left_closes_its_connection():
    wire = Wire()
    asking = await wire.ask()
    wire.unsent_bytes = 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert wire.aborted
    assert wire.connection.unanswered is None


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("begun", [b"", b"H", OK])
async def test_which_failures_are_stale(served, begun):
    """Only of a connection that had served, and without a byte of an answer."""
    wire = Wire()
    if served:
        await _served(wire)
    asking = await wire.ask()
    wire.feed(*[begun] if begun else [])
    wire.end()
    with pytest.raises(UpstreamUnreachable) as error:
        await asking
    assert isinstance(error.value, StaleConnection) == (served and not begun)


async def test_a_lost_connection_is_told_once():
    for end in (Wire.end, lambda wire: wire.feed(b"garbage"), lambda wire: wire.connection.close()):
        wire = Wire()
        lost = []
        wire.connection.on_lost = lost.append
        await _served(wire)
        end(wire)
        await settle()
        assert lost == [wire.connection]
        with pytest.raises(StaleConnection):
            await wire.connection.send(b"head", b"", 0.0)


# Silence.

SHORT_S = 0.03


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", b"HTTP/1.1 103 Early\r\n\r\n"])
async def test_silence_before_the_answer(begun):
    wire = Wire(SHORT_S)
    asking = await wire.ask()
    wire.feed(*[begun] if begun else [])
    with pytest.raises(UpstreamTimeout, match="with no answer"):
        await asking
    assert wire.aborted


async def test_silence_within_the_answer():
    wire = Wire(SHORT_S)
    for _ in range(3):
        await _served(wire)  # which leaves the timer behind
    asking = await wire.ask()
    wire.feed(OK + b"\r\nbegun")
    answer = await asking
    assert await answer.next_piece() == b"begun"
    with pytest.raises(UpstreamTimeout, match="within its answer"):
        await answer.next_piece()
    assert wire.aborted


async def test_an_idle_connection_may_be_silent():
    wire = Wire(SHORT_S)
    await _served(wire)
    while wire.connection._timer is not None:
        await asyncio.sleep(0.001)
    assert await _served(wire) == b"ok"


async def test_a_reader_that_is_behind_is_no_silence():
    wire = Wire(SHORT_S)
    asking = await wire.ask()
    wire.feed(OK + b"\r\n" + b"x" * LARGE)
    answer = await asking
    for _ in range(3):  # the timer looks, and looks again
        timer = wire.connection._timer
        while wire.connection._timer is timer:
            await asyncio.sleep(0.001)
    assert not wire.aborted
    assert len(await answer.next_piece()) == LARGE
    with pytest.raises(UpstreamTimeout):
        await answer.next_piece()
