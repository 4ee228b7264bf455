"""What a provider's bytes are taken for: whole, cut or spoilt, in any segments, held against aiohttp's own parser."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.base import UpstreamError
from tests.support.fed_connections import LIMIT_BYTES, NONE, PLAIN, Outcome, Wire, outcome

pytestmark = pytest.mark.slow

EXAMPLES = settings(max_examples=100)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all examples."""
    with asyncio.Runner() as made:
        yield made


async def reference(data: bytes, *, end: bool) -> Outcome:
    """What aiohttp's parser takes the same bytes for; it forgives more (bare line feeds, folded lines)."""
    loop = asyncio.get_running_loop()
    parser = HttpResponseParser(BaseProtocol(loop), loop, LIMIT_BYTES, read_until_eof=True, auto_decompress=False)
    found: Any = None
    try:
        for position in range(len(data)):
            messages, _, _ = parser.feed_data(data[position : position + 1])
            for message, payload in messages:
                found = (message, payload) if message.code >= 200 else found
            if found is not None and found[1].is_eof():
                break
        if end:
            parser.feed_eof()
    except (HttpProcessingError, ValueError):
        pass  # broken from here on
    if found is None:
        return NONE
    message, payload = found
    whole = payload.is_eof()
    payload.set_exception(None)
    return Outcome(message.code, list(message.raw_headers), payload.read_nowait(), whole, False)


# Well-formed answers.

NAMES = st.from_regex(rb"[Xx]-[!#$%&'*+.^_`|~0-9A-Za-z-]{0,12}", fullmatch=True)
VALUES = st.lists(st.sampled_from([9, *range(32, 127), *range(128, 256)]), max_size=20).map(lambda b: bytes(b).strip())
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=4)
CONNECTIONS = st.sampled_from([b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"])
REASONS = st.sampled_from([b" OK", b" ", b"", b" Some reason \xfc"])


def written(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)


@dataclass(frozen=True)
class Made:
    """A well-formed answer and what it is. `closes` is whether it ends with its connection."""

    data: bytes
    expected: Outcome
    closes: bool


@st.composite
def answers(draw: st.DrawFn) -> Made:
    """Any answer by RFC 9112 that a provider may give to a POST."""
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 400, 429, 500, 999]))
    connection, headers, pieces = draw(CONNECTIONS), draw(HEADERS), draw(BODIES)
    framings = ["length", "close"] if version == b"HTTP/1.0" else ["length", "chunks", "close"]
    framing = draw(st.sampled_from(framings)) if status not in (204, 304) else "none"
    interim = b"".join(
        b"HTTP/1.1 %d Interim\r\n%b\r\n" % (number, written(draw(HEADERS)))
        for number in draw(st.lists(st.sampled_from([100, 102, 103]), max_size=3))
    )
    body, payload, line = b"".join(pieces), b"".join(pieces), b""
    if framing == "none":
        body = payload = b""
    elif framing == "length":
        line = draw(st.sampled_from([b"Content-Length: %d\r\n", b"content-length:  %d\r\n"])) % len(body)
    elif framing == "chunks":
        line = b"Transfer-Encoding: chunked\r\n"
        form = draw(st.sampled_from([b"%x", b"%X", b"000%x"]))
        extension = draw(st.sampled_from([b"", b";a", b";name=value", b';a="quoted"', b";a;b=c"]))
        payload = b"".join((form % len(piece)) + extension + b"\r\n" + piece + b"\r\n" for piece in pieces)
        payload += b"0" + extension + b"\r\n" + written(draw(HEADERS)) + b"\r\n"
    head = version + b" %d" % status + draw(REASONS) + b"\r\n" + written(headers) + line + connection + b"\r\n"
    raw = [*headers, *_pairs(line), *_pairs(connection)]
    asked_to_close = b"close" in connection or (version == b"HTTP/1.0" and not connection)
    kept = framing != "close" and not asked_to_close
    return Made(interim + head + payload, Outcome(status, raw, body, True, kept), framing == "close")


def _pairs(line: bytes) -> list[tuple[bytes, bytes]]:
    name, _, value = line.rstrip().partition(b":")
    return [(name, value.strip())] if line else []


def segments_of(data: bytes, cuts: list[int] | None) -> list[bytes]:
    """Cut at these places, taken modulo the length; without them into single bytes."""
    places = sorted({cut % (len(data) + 1) for cut in cuts or ()} | {0, len(data)})
    if cuts is None:
        return [data[place : place + 1] for place in range(len(data))]
    return [data[start:stop] for start, stop in pairwise(places)]


CUTS = st.none() | st.lists(st.integers(0, 1_000), max_size=12)


@EXAMPLES
@given(made=answers(), cuts=CUTS)
def test_an_answer_is_what_its_bytes_say_however_they_are_cut(runner, made, cuts):
    async def work():
        expected = made.expected
        seen = await outcome(segments_of(made.data, cuts), end=made.closes)
        if b"HTTP/1.0" in made.data and expected.kept:  # it may be, and need not
            expected = replace(expected, kept=seen.kept)
        assert seen == expected
        seen = await reference(made.data, end=made.closes)
        assert (seen.status, seen.body, seen.whole) == (expected.status, expected.body, True)
        assert seen.headers == expected.headers

    runner.run(work())


@EXAMPLES
@given(made=answers(), length=st.integers(0, 1_000), cuts=CUTS, reset=st.booleans())
def test_a_part_of_an_answer_is_not_whole(runner, made, length, cuts, reset):
    """But for a body that its connection ends, of which nobody can tell; there a reset is no end."""
    data = made.data[: length % len(made.data)]

    async def work():
        error = ConnectionResetError() if reset else None
        seen = await outcome(segments_of(data, cuts), end=True, error=error)
        assert not seen.whole or (made.closes and not reset and seen.status == made.expected.status)
        assert made.expected.body.startswith(seen.body)
        assert not seen.kept

    runner.run(work())


# Broken ones.

TOKENS = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b":",
        b" ",
        b"\t",
        b"\0",
        b"\x7f",
        b"\xff",
        b";",
        b",",
        b"0",
        b"1",
        b"-1",
        b"HTTP/1.1 ",
        b"HTTP/1.0 ",
        b"HTTP/2.0 ",
        b"HTTP/",
        b"100 ",
        b"204 ",
        b"304 ",
        b"199 ",
        b"099 ",
        b"1000 ",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"chunked",
        b"gzip, ",
        b"Transfer-Encoding: identity\r\n",
        b"Connection: keep-alive\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        PLAIN,
        b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b"Content-Length",
        b"ffffffffffffffffff",
        b"18446744073709551616",
    ]
)
CHANGES = st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 6), TOKENS | st.just(b"")), min_size=1, max_size=4)


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Each change takes some bytes away at a place, and puts others there."""
    for place, taken, put in changes:
        start = place % (len(data) + 1)
        data = data[:start] + put + data[start + taken :]
    return data


@settings(EXAMPLES, max_examples=200)
@given(made=answers(), changes=CHANGES, cuts=CUTS, end=st.booleans())
def test_spoilt_bytes_never_pass_for_a_whole_answer(runner, made, changes, cuts, end):
    """What is taken for whole is so to the more forgiving parser too, with the same status and the same body."""
    data = changed(made.data, changes)

    async def work():
        seen = await outcome(segments_of(data, cuts), end=end)
        assert seen.whole or not seen.kept
        if seen.whole:
            other = await reference(data, end=end)
            assert (seen.status, seen.body, other.whole) == (other.status, other.body, True)

    runner.run(work())


@settings(EXAMPLES, max_examples=200)
@given(made=answers(), changes=st.just([]) | CHANGES, surplus=st.just(b"") | TOKENS, cuts=CUTS)
def test_a_connection_that_is_kept_serves_the_next_answer_unharmed(runner, made, changes, surplus, cuts):
    """After trailers, garbage, or the beginning of an unrequested answer, it is either closed or clean."""
    data = changed(made.data, changes) + surplus

    async def work():
        wire = Wire()
        asking = await wire.ask()
        wire.feed(*segments_of(data, cuts))
        if not wire.over:
            wire.end()
        try:
            (await asking).release()
        except UpstreamError:
            assert wire.aborted
        if wire.connection.usable:
            again = await wire.ask()
            wire.feed(PLAIN)
            answer = await again
            assert (answer.status, answer.headers) == (200, [(b"Content-Length", b"2")])
            assert await answer.read(LIMIT_BYTES) == b"ok"

    runner.run(work())
