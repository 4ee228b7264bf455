"""The tap on Gemini's streams: of server-sent events, and of one JSON array."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects.gemini.answer import Answer, Reading
from gateway.dialects.gemini.streams import ArrayFrames, EventFrames, GeminiTap
from gateway.dialects.streaming import MAX_PLAIN_BYTES
from tests.gateway.dialects.gemini.support import (
    DIALECT,
    FIRST,
    LAST,
    PIECES,
    SECOND,
    array,
    candidate,
    counts,
    events,
    piece,
)

SSE = b"text/event-stream"
JSON = b"application/json; charset=utf-8"


STREAMS = [
    (SSE, events(*PIECES)),
    (SSE, events(*PIECES, end="\n\n")),
    (SSE, "\ufeff".encode() + events(*PIECES)),
    (SSE, b": hello\n\n" + events(FIRST) + b": keep-alive\n\n" + events(SECOND, LAST) + b": bye\n\n"),
    (SSE, events(*PIECES).replace(b"data: ", b"event: x\ndata:")),
    (JSON, array(*PIECES)),
    (JSON, array(*PIECES, indent=None)),
    (JSON, b"  " + array(*PIECES) + b"\r\n"),
]


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(place % (len(stream) + 1) for place in at)})
    return [stream[begins:ends] for begins, ends in pairwise(places)]


def tap_of(content_type: bytes) -> GeminiTap:
    return DIALECT.tap(content_type, usage_added=False, include_cost=False)


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 5_000), max_size=30))
def test_any_cutting_gives_the_same_bytes_and_usage(stream, at):
    content_type, whole = stream
    tap = tap_of(content_type)
    passed = b"".join(map(tap.feed, cut(whole, at)))
    assert b"STOP" not in passed
    assert b"friend" in passed
    tap.end()
    assert (tap.done, tap.error_seen, tap.stale, tap.began_output) == (True, False, False, True)
    assert tap.reported.usage == Usage(10, 10, reasoning_tokens=3)
    assert passed + tap.finish() == whole
    assert tap.finish() == b""
    assert tap.output().text == 'Good "day" }], friend. \\'


@pytest.mark.parametrize(("content_type", "whole"), STREAMS)
def test_byte_by_byte(content_type, whole):
    tap = tap_of(content_type)
    passed = b"".join(tap.feed(bytes([byte])) for byte in whole)
    tap.end()
    assert tap.done
    assert tap.reported is not None
    assert passed + tap.finish() == whole


@given(st.sampled_from([SSE, JSON]), st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
@example(JSON, b']]]}"[{"\\', [3, 5])
@example(SSE, b"data: {\n\ndata: []\n\n\n\n", [9])
def test_garbage_passes_as_it_is(content_type, whole, at):
    tap = tap_of(content_type)
    passed = b"".join(map(tap.feed, cut(whole, at)))
    tap.end()
    assert tap.reported is None
    assert passed + tap.finish() == whole


@pytest.mark.parametrize(("content_type", "write"), [(SSE, events), (JSON, array)])
class TestEnds:
    """The bytes that are held back at a stream's end, and streams without an end."""

    def test_each_piece_passes_at_once(self, content_type, write):
        tap = tap_of(content_type)
        whole = write(*PIECES)
        ends = whole.index(b"friend")
        passed = tap.feed(whole[:ends])
        assert b"day" in passed
        assert b"friend" in tap.feed(whole[ends : whole.index(b"STOP")])

    def test_another_candidate_may_write_on(self, content_type, write):
        """What was held is passed on, and the usage of the very last piece counts."""
        first_ends = piece(candidate("One.", "STOP"), usage=counts(10, 2))
        goes_on = piece(candidate("Two", None, index=1), usage=counts(10, 5))
        ends = piece(candidate(".", "MAX_TOKENS", index=1), usage=counts(10, 6))
        tap, whole = tap_of(content_type), write(first_ends, goes_on, ends)
        passed = b"".join(map(tap.feed, cut(whole, list(range(0, len(whole), 40)))))
        assert b"Two" in passed
        assert b"MAX_TOKENS" not in passed
        tap.end()
        assert tap.done
        assert tap.reported.usage == Usage(10, 6)
        assert passed + tap.finish() == whole

    def test_usage_may_come_after_the_end(self, content_type, write):
        tap, whole = tap_of(content_type), write(FIRST, piece(candidate("", "STOP")), {"usageMetadata": counts(10, 9)})
        passed = b"".join(map(tap.feed, cut(whole, list(range(0, len(whole), 40)))))
        tap.end()
        assert tap.done
        assert tap.reported.usage == Usage(10, 9)
        assert passed + tap.finish() == whole

    def test_counts_that_are_left_out_stay(self, content_type, write):
        first = piece(candidate("A", None), usage=counts(10, 1, cachedContentTokenCount=4))
        tap = tap_of(content_type)
        tap.feed(write(first, piece(candidate("B", "STOP"), usage={"candidatesTokenCount": 2, "totalTokenCount": 12})))
        assert tap.reported.usage == Usage(10, 2, cached_input_tokens=4)

    def test_a_cut_stream_is_not_done(self, content_type, write):
        whole = write(FIRST, piece(candidate(", friend.", None)), LAST)
        tap = tap_of(content_type)
        part = whole[: whole.index(b"STOP")]
        passed = tap.feed(part)
        tap.end()
        assert not tap.done
        assert tap.stale
        assert tap.reported is not None
        assert "friend" in tap.output().text
        assert passed + tap.finish() == part

    def test_an_error_ends_it(self, content_type, write):
        error = {"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}
        tap, whole = tap_of(content_type), write(FIRST, error)
        passed = tap.feed(whole)
        assert b"Overloaded" not in passed
        tap.end()
        assert (tap.done, tap.error_seen, tap.began_output) == (False, True, True)
        assert passed + tap.finish() == whole

    def test_a_blocked_prompt_is_an_end(self, content_type, write):
        blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": counts(10, 0)}
        tap = tap_of(content_type)
        assert b"SAFETY" not in tap.feed(write(blocked))
        tap.end()
        assert (tap.done, tap.began_output) == (True, False)
        assert tap.reported.usage == Usage(10, 0)

    def test_what_was_written_and_not_counted_is_no_report(self, content_type, write):
        tap = tap_of(content_type)
        tap.feed(write(piece(candidate("Good.", "STOP"), usage=counts(10, 0))))
        tap.end()
        assert tap.reported is None

    def test_the_cost_stands_in_the_last_usage(self, content_type, write):
        tap, whole = tap_of(content_type), write(*PIECES)
        passed = tap.feed(whole)
        tap.end()
        told = passed + tap.finish("0.00001")
        assert told != whole
        assert b'"cost_usd":"0.00001","charge_usd":"0.00001"' in told
        if content_type == JSON:
            last = json.loads(told)
            said = last[-1]["usageMetadata"]
            assert said.pop("charge_usd") == said.pop("cost_usd") == "0.00001"
            assert last == PIECES

    def test_what_is_kept_is_bounded(self, content_type, write):
        frames = EventFrames() if content_type == SSE else ArrayFrames()
        tap = GeminiTap(frames, keep_bytes=400)
        whole = write(*[piece(candidate("word " * 20, None))] * 20, piece(candidate("", "STOP")))
        passed = b"".join(map(tap.feed, cut(whole, list(range(0, len(whole), 100)))))
        tap.end()
        assert (tap.done, tap.stale, tap.began_output) == (True, True, True)
        assert len(tap.output().text) < 2_000
        assert tap.extrapolate(10) > 20
        assert passed + tap.finish() == whole

    def test_a_piece_above_its_bound_passes_unread(self, content_type, write):
        frames = EventFrames(500) if content_type == SSE else ArrayFrames(500)
        tap = GeminiTap(frames)
        whole = write(FIRST, piece(candidate("x" * 3_000, None)), LAST)
        passed = b"".join(map(tap.feed, cut(whole, list(range(0, len(whole), 50)))))
        tap.end()
        assert tap.done
        assert tap.began_output
        assert tap.extrapolate(100) > 300
        assert passed + tap.finish() == whole

    def test_what_follows_the_end_is_bounded(self, content_type, write):
        """It passes then, and is not kept."""
        tap = tap_of(content_type)
        whole = write(LAST, *[{"usageMetadata": counts(10, 7), "padding": "x" * 200_000}] * 12)
        passed = b"".join(map(tap.feed, cut(whole, list(range(0, len(whole), 90_000)))))
        assert len(passed) > 1_000_000
        tap.end()
        assert tap.done
        assert passed + tap.finish() == whole


def test_an_array_without_its_bracket_is_not_done():
    tap = tap_of(JSON)
    tap.feed(array(*PIECES).rstrip()[:-1])
    tap.end()
    assert not tap.done
    assert tap.reported is not None


def test_an_object_in_the_place_of_an_array_is_read():
    tap = tap_of(JSON)
    error = b'{"error": {"code": 500}}'
    assert tap.feed(error) == b""
    tap.end()
    assert tap.error_seen
    assert tap.finish() == error


def test_an_event_without_its_empty_line_is_read():
    tap = tap_of(SSE)
    whole = events(*PIECES).rstrip()
    passed = tap.feed(whole)
    tap.end()
    assert tap.done
    assert tap.reported.usage == Usage(10, 10, reasoning_tokens=3)
    assert passed + tap.finish() == whole


def looked_at(*chunks: bytes) -> GeminiTap:
    tap = tap_of(SSE)
    passed = b"".join(map(tap.feed, chunks))
    assert tap.finish() == b"".join(chunks)[len(passed) :]
    return tap


SPOKEN = piece(candidate("a", None), usage=counts(10, 1, thoughtsTokenCount=9, totalTokenCount=20))
ENDED = piece(candidate("", "STOP"), usage={"promptTokenCount": 12, "candidatesTokenCount": 2})
SILENT = piece(candidate("b", None), usage={"promptTokenCount": 11, "totalTokenCount": None})


@pytest.mark.parametrize("pieces", [[SPOKEN, SILENT, ENDED], [SILENT, SPOKEN, SPOKEN, SILENT, ENDED]])
def test_a_field_that_one_piece_has_is_kept_however_pieces_come(pieces):
    alone = looked_at(*(events(each) for each in pieces))
    for tap in (alone, looked_at(events(*pieces)), looked_at(events(*pieces[:2]), events(*pieces[2:]))):
        assert tap.reported == alone.reported
        assert (tap.reported.usage.input_tokens, tap.reported.usage.reasoning_tokens) == (12, 9)
        assert tap.done
        assert not tap.stale


USED = st.fixed_dictionaries(
    {"promptTokenCount": st.integers(1, 99), "candidatesTokenCount": st.integers(0, 1_000)},
    optional={
        "totalTokenCount": st.one_of(st.none(), st.integers(0, 3_000)),
        "thoughtsTokenCount": st.integers(0, 20),
        "cachedContentTokenCount": st.integers(0, 20),
        "promptTokensDetails": st.sampled_from(["TEXT", "AUDIO"]).map(lambda of: [{"modality": of, "tokenCount": 5}]),
        "serviceTier": st.sampled_from(["priority", "flex"]),
        "otherTokenCount": st.integers(0, 5),
    },
)
MODELS = st.one_of(st.none(), st.just(""), st.sampled_from(["gemini-2.5-flash", "gemini-3-pro"]))


@given(st.lists(st.tuples(USED, MODELS), min_size=1, max_size=5), st.integers(1, 3))
def test_usage_of_a_burst_is_that_of_its_pieces_one_by_one(used, times):
    pieces = [piece(candidate("a", None), usage=usage) | {"modelVersion": model} for usage, model in used * times]
    alone = Reading()
    for each in pieces:
        alone.add(msgspec.json.decode(raw := json.dumps(each).encode(), type=Answer), raw)
    for end in ("\r\n\r\n", "\n\n"):
        assert looked_at(events(*pieces, end=end)).reported == alone.reported()


def test_what_is_written_behind_usage_in_the_same_bytes_is_stale():
    unusual = events(SPOKEN) + b": hello\n\n" + events(piece(candidate("and on", None)))
    for stream in (events(SPOKEN, piece(candidate("and on", None))), unusual):
        assert looked_at(stream).stale
        assert not looked_at(stream + events(SPOKEN)).stale


def test_usage_of_events_that_end_nothing_is_read_when_it_is_asked_for(monkeypatch):
    read: list[bytes] = []
    take = Reading.add_alike

    def noted(reading, pieces, last):
        read.append(pieces)
        return take(reading, pieces, last)

    monkeypatch.setattr(Reading, "add_alike", noted)
    tap = tap_of(SSE)
    for _ in range(20):
        assert tap.feed(events(FIRST)) == events(FIRST)
    assert not read
    assert tap.reported is not None
    assert len(read) == 1
    for _ in range(MAX_PLAIN_BYTES // len(events(FIRST)) + 1):
        tap.feed(events(FIRST))
    assert len(read) == 2


@pytest.mark.parametrize(("content_type", "framed"), [(SSE, events), (JSON, array)])
def test_calls_of_tools_at_the_provider_are_counted(content_type, framed):
    def parts(*given):
        return piece({"content": {"parts": list(given), "role": "model"}, "index": 0})

    code, call = {"executableCode": {"code": "1"}}, {"toolCall": {"toolType": "GOOGLE_SEARCH"}}
    told = parts(code, {"text": 'the "toolCall": {'}, call, {"functionCall": {"name": "f", "args": {}}})
    tap = tap_of(content_type)
    for chunk in cut(framed(FIRST, told, parts(code), LAST), [17, 300, 500]):
        tap.feed(chunk)
        assert 0 <= tap.tool_calls <= 3
    tap.end()
    assert tap.tool_calls == 3
