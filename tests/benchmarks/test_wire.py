"""What is sent and what counts as a whole answer."""

import asyncio
import json

import pytest

from benchmarks import wire
from benchmarks.connection import CHAT, LONG, Connection, Shape, ended


def body_of(request: bytes) -> dict[str, object]:
    head, _, body = request.partition(b"\r\n\r\n")
    assert int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) == len(body)
    fields: dict[str, object] = json.loads(body)
    return fields


def test_a_request_has_its_key_and_its_length():
    request = wire.request("mg_secret")
    assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer mg_secret\r\n" in request
    assert body_of(request)["model"] == wire.MODEL
    assert "stream" not in body_of(request)


def test_a_slow_stream_is_marked():
    request = wire.request("x", user="slow")
    assert wire.SLOW_MARK in request
    assert b'"stream":true' in request
    assert wire.SLOW_MARK not in wire.request("x", stream=True)


def test_a_burst_is_marked_and_is_a_whole_stream():
    request = wire.request("x", user="burst")
    assert wire.BURST_MARK in request
    assert b'"stream":true' in request
    assert wire.BURST_MARK not in wire.request("x", user="slow")
    assert answered(wire.stream_head() + wire.burst(request), streaming=True) == [None]


def test_a_stream_says_that_there_is_no_usage_yet_where_usage_is_asked_for():
    asked = wire.request("x", user="burst").replace(b'"user"', b'"stream_options":{"include_usage":true},"user"')
    assert wire.burst(asked).count(b'"usage":null}') == wire.STREAM_CHUNKS
    assert answered(wire.stream_head() + wire.burst(asked), streaming=True) == [None]
    assert b'"usage":null' not in wire.burst(wire.request("x", user="burst"))


def test_a_long_stream_is_whole_with_all_its_events():
    events = wire.stream_events(wire.request("x", user="long"))
    whole = (wire.stream_head(), *events, wire.STREAM_LAST)
    assert wire.LONG_LAST_WORD in events[-1]
    assert answered(*whole, streaming=True, shape=LONG) == [None]
    assert answered(*whole, streaming=True) == ["a stream that is not whole"]


def test_headers_replace_those_of_the_client():
    request = wire.request("x", headers=(("Accept-Encoding", "identity"), ("x-more", "1")))
    assert request.count(b"Accept-Encoding") == 1
    assert b"Accept-Encoding: identity\r\n" in request
    assert b"x-more: 1\r\n" in request


@pytest.mark.parametrize("size", [0, 1, 37_000, 1_000_000])
def test_a_prompt_has_its_size_and_is_the_same_again(size):
    assert len(wire.prompt(size).encode()) == size
    assert wire.prompt(size) == wire.prompt(size)


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx: y\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", False),
        (b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nab", False),
    ],
)
def test_the_end_of_an_answer(answer, whole):
    assert ended(answer) is whole


class Sink(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent = bytes(data)

    def close(self) -> None:
        self.closed = True


def answered(*parts: bytes, exact: bool = True, streaming: bool = False, shape: Shape = CHAT) -> list[str | None]:
    """What a connection makes of an answer that comes in these parts."""
    problems: list[str | None] = []
    connection = Connection(exact, shape)
    connection.connection_made(Sink())
    connection.ask(b"", streaming, lambda _, problem: problems.append(problem))
    for part in parts:
        connection.data_received(part)
    return problems


def test_an_answer_is_whole_when_its_last_byte_has_come():
    assert answered(wire.answer()) == [None]
    assert answered(wire.answer()[:-1]) == []
    assert answered(wire.answer()[:100], wire.answer()[100:]) == [None]


def test_another_status_is_a_problem_with_its_code():
    (problem,) = answered(b'HTTP/1.1 402 Payment Required\r\n\r\n{"error":{"code":"billing_required"}}')
    assert problem is not None
    assert "402" in problem
    assert "billing_required" in problem


REWRITTEN = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{"text": "%s"}' % (
    len(wire.ANSWER_TEXT) + 12,
    wire.ANSWER_TEXT.encode(),
)


def test_only_a_peer_may_write_answers_anew():
    assert answered(REWRITTEN, exact=False) == [None]
    assert answered(REWRITTEN) == []
    (problem,) = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", exact=False)
    assert problem is not None
    assert "without the upstream's text" in problem


def test_a_stream_is_whole_with_all_its_chunks():
    end = (wire.STREAM_DONE, wire.STREAM_END)
    assert answered(wire.stream_head(), *wire.STREAM_EVENTS, *end, streaming=True) == [None]
    (problem,) = answered(wire.stream_head(), *wire.STREAM_EVENTS[1:], *end, streaming=True)
    assert problem == "a stream that is not whole"


def test_no_two_answers_have_the_same_head():
    heads = {wire.stream_head(number) for number in range(2_000)}
    assert len(heads) == 2_000
    assert len({wire.answer(number) for number in range(2_000)}) == 2_000
    assert len({head.partition(b"Date: ")[2] for head in heads}) == 2
