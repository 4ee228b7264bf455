"""Which heads the front takes, held against aiohttp's parser and llhttp's strict one; what it remembers of them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httptools
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config.defaults import Defaults
from gateway.dialects.registry import make_dialects
from gateway.server.bodies import UNCOUNTED_BYTES
from gateway.server.front import are_whole, split
from gateway.server.known_heads import BYTES_KEPT, HEADS_KEPT, MOST_LINES, KnownHeads

CHAT = "/v1/chat/completions"
SECRET = "mg_A1b2C3d4E5f6G7h8I9j0"
KEY = f"Authorization: Bearer {SECRET}"
USUAL = ("Host: here", "Content-Type: application/json", KEY, "Accept: */*")
FIND = make_dialects(Defaults().structure).find


def head(*lines: str, path: str = CHAT) -> bytes:
    """All lines of a head but its length."""
    return "\r\n".join((f"POST {path} HTTP/1.1", *lines)).encode("latin-1")


@pytest.fixture
def heads() -> KnownHeads:
    return KnownHeads(FIND)


def test_what_is_usual_is_read(heads: KnownHeads) -> None:
    read = heads.read(head(*USUAL, "Connection: Keep-Alive", "X-Empty:", "X-Spaces: \t a b\t "))
    assert read is not None
    assert (read.path, read.match.endpoint.path, read.key_digest) == (CHAT, CHAT, None)
    assert read.headers["authorization"] == f"Bearer {SECRET}"
    assert read.raw_headers[-2:] == ((b"X-Empty", b""), (b"X-Spaces", b"a b"))


UNSURE = {
    "chunks": head(*USUAL, "Transfer-Encoding: chunked"),
    "a coding": head(*USUAL, "Content-Encoding: gzip"),
    "an expectation": head(*USUAL, "Expect: 100-continue"),
    "an upgrade": head(*USUAL, "Connection: Upgrade", "Upgrade: websocket"),
    "an upgrade that nothing names": head(*USUAL, "Upgrade: h2c"),
    "trailers": head(*USUAL, "Trailer: X"),
    "the connection's end": head(*USUAL, "Connection: close"),
    "another length": head(*USUAL, "content-length: 5"),
    "no host": head(*USUAL[1:]),
    "two hosts": head(*USUAL, "host: there"),
    "two keys": head(*USUAL, "x-api-key: other"),
    "a key twice": head(*USUAL, KEY),
    "a name twice": head(*USUAL, "X-Forwarded-For: 1.1.1.1", "x-forwarded-for: 2.2.2.2"),
    "a folded line": head(*USUAL, "X: a", " b"),
    "a folded line with a colon": head(*USUAL, "X: a", " b: c"),
    "a space before the colon": head(*USUAL, "X : a"),
    "a space before the name": head(" X: a", *USUAL),
    "no colon": head(*USUAL, "X"),
    "no name": head(*USUAL, ": x"),
    "a bare line feed": head(*USUAL, "X: a\nTransfer-Encoding: chunked"),
    "a bare carriage return": head(*USUAL, "X: a\rb"),
    "a NUL": head(*USUAL, "X: \0"),
    "no ASCII": head(*USUAL, "X: \xe4"),
    "no ASCII in a name": head(*USUAL, "X\xe4: a"),
    "a line before it": b"\r\n" + head(*USUAL),
    "many lines": head(*USUAL, *[f"X-{number}: y" for number in range(MOST_LINES)]),
    "another method": head(*USUAL).replace(b"POST", b"GET"),
    "a method in small letters": head(*USUAL).replace(b"POST", b"post"),
    "another version": head(*USUAL).replace(b"1.1", b"1.0"),
    "a path with a space": head(*USUAL, path=CHAT + " x"),
    "an absolute path": head(*USUAL, path="http://here" + CHAT),
    "a path that is spelt otherwise": head(*USUAL, path="/v1/ch%61t/completions"),
    "no endpoint": head(*USUAL, path="/v1/none"),
    "nothing": b"",
}


@pytest.mark.parametrize("lines", UNSURE.values(), ids=UNSURE)
def test_what_is_not_sure_is_not_read(heads: KnownHeads, lines: bytes) -> None:
    assert heads.read(lines) is None


@pytest.mark.parametrize(
    "length",
    ["", "Content-Length: ", "Content-Length: 05", "Content-Length: +5", "Content-Length: 5 ", "Content-Length:5"],
)
def test_a_length_that_is_spelt_otherwise_is_none(length: str) -> None:
    data = head(*USUAL, *([length] if length else [])) + b"\r\n\r\n12345"
    assert split(data) == (b"", -1, b"")


def test_a_length_stands_anywhere_and_heads_with_any_are_the_same() -> None:
    first, *others = head(*USUAL).split(b"\r\n")
    for at in range(len(others) + 1):
        for spelt in (b"Content-Length: 123", b"content-length: 4"):
            lines = b"\r\n".join((first, *others[:at], spelt, *others[at:]))
            assert split(lines + b"\r\n\r\nbody") == (head(*USUAL), int(spelt.split()[1]), b"body")
    assert split(head(*USUAL, f"Content-Length: {10 * UNCOUNTED_BYTES}") + b"\r\n\r\n")[1] == -1
    twice = head(*USUAL, "Content-Length: 4", "Content-Length: 5") + b"\r\n\r\nbody"
    assert KnownHeads(FIND).read(split(twice)[0]) is None


def seen_again(heads: KnownHeads, lines: bytes) -> Any:
    """What is remembered of a head that has come twice."""
    for _ in range(2):
        assert heads.get(heads.digest(lines)) is None
        read = heads.read(lines)
        assert read is not None
        heads.remember(heads.digest(lines), read, b"digest")
    return heads.get(heads.digest(lines))


def test_a_head_is_remembered_once_it_has_come_again_and_without_its_key(heads: KnownHeads) -> None:
    known = seen_again(heads, head(*USUAL, "X-Metergate-Tags: team=a"))
    assert (known.key_digest, known.headers["x-metergate-tags"]) == (b"digest", "team=a")
    assert SECRET not in repr((known.headers, known.raw_headers, known.path))
    assert [name for name, _ in known.raw_headers] == [b"Host", b"Content-Type", b"Accept", b"X-Metergate-Tags"]
    for other in (head(*USUAL), head(*USUAL, "X-Metergate-Tags: team=b"), head(*USUAL, "X-Metergate-Tags: team=a ")):
        assert heads.get(heads.digest(other)) is None
    assert KnownHeads(FIND).digest(b"x") != KnownHeads(FIND).digest(b"x")


@pytest.mark.parametrize("shown", ["x-api-key: ", "X-Goog-Api-Key: ", "api-key: "])
def test_a_key_in_another_header_is_left_out_too(heads: KnownHeads, shown: str) -> None:
    known = seen_again(heads, head(*USUAL[:2], shown + SECRET))
    assert SECRET not in repr((known.headers, known.raw_headers))


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ((*USUAL, f"Cookie: session={SECRET}"), CHAT),
        ((*USUAL, f"Proxy-Authorization: Basic {SECRET}"), CHAT),
        (USUAL[:2], f"/v1beta/models/gemini-2.5-flash:generateContent?key={SECRET}"),
        (USUAL[:2], f"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse&%6bey={SECRET}"),
    ],
    ids=["a cookie", "of a proxy", "in the path", "in the path, spelled in another way"],
)
def test_a_head_with_a_secret_that_stays_is_never_remembered(
    heads: KnownHeads, lines: tuple[str, ...], path: str
) -> None:
    assert seen_again(heads, head(*lines, path=path)) is None
    assert len(heads) == 0


def test_a_query_that_has_no_key_is_remembered(heads: KnownHeads) -> None:
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    known = seen_again(heads, head(*USUAL[:2], "X-Goog-Api-Key: " + SECRET, path=path))
    assert (known.path, known.key_digest) == (path, b"digest")
    assert SECRET not in repr((known.headers, known.raw_headers, known.path))


def test_there_are_never_more_than_so_many_and_those_that_come_stay(heads: KnownHeads) -> None:
    often = head(*USUAL)
    seen_again(heads, often)
    for number in range(3 * HEADS_KEPT):
        lines = head(*USUAL, f"X: {number}")
        seen_again(heads, lines)
        if number % 100 == 0:
            assert heads.get(heads.digest(often)) is not None
    assert HEADS_KEPT < len(heads) <= 2 * HEADS_KEPT
    assert len(heads._seen) + len(heads._seen_before) <= 2 * HEADS_KEPT
    for number in range(3 * BYTES_KEPT // 4_000):
        seen_again(heads, head(*USUAL, f"Y: {number:04000d}"))
    assert len(heads) <= 2 * (BYTES_KEPT // 4_000 + 1)


# Both parsers on the same bytes.


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all examples."""
    with asyncio.Runner() as made:
        yield made


Request = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]


async def by_aiohttp(data: bytes) -> list[Request]:
    """All whole requests of these bytes, and nothing else; raises what it refuses."""
    loop = asyncio.get_running_loop()
    parser: Any = HttpRequestParser(BaseProtocol(loop), loop, 1 << 20, auto_decompress=False)
    messages, upgraded, _ = parser.feed_data(data)
    assert not upgraded
    found = []
    for message, payload in messages:
        assert not (message.chunked)
        assert not (message.upgrade)
        assert not (message.should_close)
        assert not (message.compression)
        assert payload.is_eof()
        found.append((message.method.encode(), message.path.encode(), message.raw_headers, payload.read_nowait()))
    return found


class Seen:
    """What llhttp says of a request, in its strict mode."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._begin()

    def _begin(self) -> None:
        self.path, self.body = b"", b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.requests.append((b"POST", self.path, tuple(self.headers), self.body))
        self._begin()


def by_llhttp(data: bytes) -> list[Request]:
    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(data)
    assert parser.get_http_version() == "1.1"
    return seen.requests


def by_front(data: bytes) -> list[Request] | None:
    """All whole requests by the front, without the lines of their lengths; None where it is not sure of one."""
    found: list[Request] = []
    heads = KnownHeads(FIND)
    while data:
        lines, length, body = split(data)
        read = heads.read(lines) if 0 < length <= len(body) else None
        if read is None:
            return None
        found.append((b"POST", read.path.encode(), read.raw_headers, body[:length]))
        data = body[length:]
    return found


def without_lengths(requests: list[Request]) -> list[Request]:
    """As the front has them; values are compared without the spaces around them."""
    return [
        (
            method,
            path,
            tuple((name, value.strip(b" \t")) for name, value in headers if name.lower() != b"content-length"),
            body,
        )
        for method, path, headers, body in requests
    ]


# What smuggling is made of: names and values that frame, signs that some parsers take for others.
NAMES = st.one_of(
    st.sampled_from(["X", "Y", "Accept", "X_Y", "Authorization", "x-api-key", "Connection"]),
    st.sampled_from(
        [
            *("Content-Length", "content-length", "Transfer-Encoding", "Transfer-Encoding ", "Connection", "Upgrade"),
            *("Host", "Expect", " X", "X\t", "", "Content-Length\0", "\xa0X"),
        ]
    ),
)
VALUES = st.one_of(
    st.sampled_from(["", "keep-alive", "a b", "a\tb", "Bearer x", "4", "\"'()<>@,;:/[]?={}"]),
    st.sampled_from(
        [
            *(
                "chunked",
                "identity",
                "keep-alive",
                "close",
                "4",
                "5",
                "0",
                "04",
                "+4",
                "4, 4",
                "4;",
                " 4 ",
                "4\t",
                "-1",
            ),
            *(
                "",
                "a\r\n b",
                "a\rb",
                "a\nb",
                "a\0b",
                "\x7f",
                "\xff",
                "h2c",
                "100-continue",
                "here",
                "here:80",
                "Bearer x",
            ),
        ]
    ),
    st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=6),
)
SEPARATORS = st.sampled_from([": ", ":", ":  ", ":\t", " : ", " "])
ENDS = st.sampled_from(["\r\n"] * 20 + ["\n", "\r", "\r\n ", "\r\r\n", "\n\n"])
TARGETS = st.sampled_from([CHAT] * 20 + [CHAT + "?a=b", CHAT + "#x", CHAT + " x", "/", "*", "/v1/\xe9", "//v1"])
BODIES = st.sampled_from(
    [b"body", b"5\r\n", b"0\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 40]
)


@st.composite
def sent(draw: st.DrawFn) -> bytes:
    """One to three requests, mostly well framed, and here and there spoilt."""
    out = []
    ends = draw(st.sampled_from([st.just("\r\n"), ENDS]))
    separators = draw(st.sampled_from([st.just(": "), SEPARATORS]))
    for _ in range(draw(st.integers(1, 3))):
        body = draw(BODIES)
        lines = [("Host", ": ", "here"), ("Content-Length", ": ", str(len(body)))]
        for _ in range(draw(st.integers(0, 2))):
            line = (draw(NAMES), draw(separators), draw(VALUES))
            lines.insert(draw(st.integers(0, len(lines))), line)
        head = f"POST {draw(TARGETS)} HTTP/1.1" + draw(ends)
        head += "".join("".join(line) + draw(ends) for line in lines) + draw(ends)
        out.append(head.encode("latin-1") + body)
    data = bytearray(b"".join(out))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@pytest.mark.slow
@settings(max_examples=1_500, deadline=None)
@example(head("Host: here", "Content-Length: 4") + b"\r\n\r\nbody")
@given(data=sent())
def test_what_the_front_reads_both_other_parsers_read_alike(runner: asyncio.Runner, data: bytes) -> None:
    """Where the front takes requests, aiohttp's parser and llhttp take the same ones, and end them at the same byte."""
    read = by_front(data)
    if read is None:
        return
    assert without_lengths(runner.run(by_aiohttp(data))) == read
    assert without_lengths(by_llhttp(data)) == read
    assert are_whole(data)


def test_the_fuzz_finds_what_the_front_takes(runner: asyncio.Runner) -> None:
    """A pipelined pair is taken by all three."""
    data = 2 * (head(*USUAL, "Content-Length: 4") + b"\r\n\r\nbody")
    read = by_front(data)
    assert read is not None
    assert len(read) == 2
    assert without_lengths(runner.run(by_aiohttp(data))) == without_lengths(by_llhttp(data)) == read


def test_a_refusal_of_aiohttp_s_is_known(runner: asyncio.Runner) -> None:
    with pytest.raises(HttpProcessingError):
        runner.run(by_aiohttp(head(*USUAL, "Content-Length: 4", "Content-Length: 5") + b"\r\n\r\nbody"))


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (head(*USUAL, "Content-Length: 4") + b"\r\n\r\nbody", True),
        (head(*USUAL, "Content-Length: 4") + b"\r\n\r\nbod", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", False),
        (b"GARBAGE\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", False),
        (b"", True),
    ],
)
def test_whole_requests_alone_are_whole(data: bytes, whole: bool) -> None:
    assert are_whole(data) is whole
