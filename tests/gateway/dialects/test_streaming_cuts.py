"""A tap on any stream, cut anywhere."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.streaming import SseTap, event_data
from tests.gateway.dialects.openai_streams import DONE, EVENTS, READER, event, run, says, usage_event, used

ENDS = st.sampled_from([b"\n", b"\r\n"])
TEXTS = st.sampled_from(["", "a", "é\U0001f600", '"usage":{', "data: [DONE]", "\n\n", "[DONE]", '{"error"'])


@st.composite
def an_event(draw: st.DrawFn) -> tuple[bytes, str, str]:
    """One event: its bytes, its kind (`plain`, `usage`, `only`), and its text."""
    end = draw(ENDS)
    kind = draw(st.sampled_from(["plain", "plain", "comment", "usage", "only", "null", "blank"]))
    if kind == "blank":
        return end, "plain", ""
    if kind == "comment":
        return b": " + draw(TEXTS).replace("\n", "").encode() + end + end, "plain", ""
    text = "" if kind == "only" else draw(TEXTS)
    fields: dict[str, Any] = {"choices": [] if kind == "only" else [{"index": 0, "delta": {"content": text}}]}
    if kind in ("usage", "only"):
        fields["usage"] = {"prompt_tokens": draw(st.integers(1, 9)), "completion_tokens": draw(st.integers(0, 9))}
    elif kind == "null":
        fields["usage"] = None
    colon = draw(st.sampled_from([":", ": "]))
    payload = json.dumps(fields, ensure_ascii=draw(st.booleans()), separators=(",", colon)).encode()
    prefix = draw(st.sampled_from([b"data: ", b"data:", b": hi" + end + b"data: ", b"id: 4" + end + b"data:"]))
    return prefix + payload + end + end, kind, text


TERMINALS = st.sampled_from([b"", DONE, b"data:[DONE]\r\n\r\n", DONE + b": bye\n\n", b"data: [DONE]"])


@st.composite
def a_stream(draw: st.DrawFn) -> tuple[list[tuple[bytes, str, str]], bytes, list[bytes]]:
    events = draw(st.lists(an_event(), max_size=6))
    terminal = draw(TERMINALS)
    whole = b"".join(written for written, _, _ in events) + terminal
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    edges = [0, *cuts, len(whole)]
    chunks = [whole[start:stop] for start, stop in pairwise(edges)]
    return events, terminal, chunks if draw(st.booleans()) else [whole[at : at + 1] for at in range(len(whole))]


def without_null(written: bytes) -> bytes:
    """An event without usage that is null."""
    return re.sub(rb',"usage": ?null(?=\}\r?\n\r?\n$)', b"", written)


def last_usage(events: list[tuple[bytes, str, str]]) -> tuple[int, int] | None:
    found = [json.loads(event_data(written))["usage"] for written, kind, _ in events if kind in ("usage", "only")]
    return (found[-1]["prompt_tokens"], found[-1]["completion_tokens"]) if found else None


@given(a_stream())
def test_without_stripping_every_byte_passes(stream):
    events, terminal, chunks = stream
    tap = SseTap(READER)
    passed, rest = run(tap, chunks)
    assert passed + rest == b"".join(chunks)
    assert rest.lstrip(b"\r\n").startswith(terminal)  # empty lines before an event are held with it
    assert used(tap) == last_usage(events)
    assert tap.done == bool(terminal)
    assert tap.output().text == "".join(text for _, _, text in events)
    assert tap.began_output == bool(tap.output().text)


@given(a_stream())
def test_stripping_removes_the_usage_chunk_and_nothing_else(
    stream,
):
    events, terminal, chunks = stream
    tap = SseTap(READER, strip_usage=True)
    passed, rest = run(tap, chunks)
    assert passed + rest == b"".join(without_null(written) for written, kind, _ in events if kind != "only") + terminal
    assert rest.endswith(terminal)
    assert used(tap) == last_usage(events)
    assert tap.output().text == "".join(text for _, _, text in events)


@given(a_stream())
def test_with_a_cost_all_else_is_as_it_was(stream):
    events, _, chunks = stream
    tap = SseTap(READER, hold_usage=True)
    passed, rest = run(tap, chunks, "0.5")
    joined = passed + rest
    assert used(tap) == last_usage(events)
    with_data = [kind for written, kind, _ in events if event_data(written)]
    if with_data and with_data[-1] in ("usage", "only"):
        assert joined.count(b'"charge_usd":"0.5"') == 1
    else:
        assert joined == b"".join(chunks)


@given(a_stream())
def test_whole_events_never_wait(stream):
    events, _, _ = stream
    tap = SseTap(READER, strip_usage=True)
    for written, kind, _ in events:
        if written.strip():
            assert tap.feed(written) == (b"" if kind == "only" else without_null(written))


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"data:", b"\n\n", b"\r\n", b"[DONE]", b'{"usage":{'])))
def test_no_bytes_make_it_fail(chunks):
    for strip, hold in ((False, False), (True, False), (False, True)):
        tap = SseTap(READER, strip_usage=strip, hold_usage=hold)
        passed, rest = run(tap, chunks, "1")
        assert passed + rest == b"".join(chunks)
        tap.output()


CLOSINGS = {
    "usage": usage_event(3, 4) + DONE,
    "usage, and more": usage_event(3, 4) + says("more") + DONE,
    "two usages": usage_event(1, 1) + says("between") + usage_event(3, 4).replace(b"\n\n", b"\r\n\r\n") + DONE,
    "error": event(error={"message": "overloaded"}) + DONE,
    "error, not done": says("last") + event(error={"message": "overloaded"}),
    "cut": says("last")[:-20],
    "more behind the end": DONE + b": bye\n\n",
}


def told(tap: SseTap, chunks: list[bytes]) -> tuple[object, ...]:
    """All that a tap tells of a stream."""
    passed, rest = run(tap, chunks)
    output = tap.output()
    return passed + rest, tap.reported, tap.error_seen, tap.done, tap.stale, tap.began_output, output.text


# Never both: who asks for the cost has usage, and what the gateway alone asked for carries no cost.
OPTIONS: list[dict[str, bool]] = [{}, {"strip_usage": True}, {"hold_usage": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=["", "strip", "hold"])
@pytest.mark.parametrize("closing", CLOSINGS)
def test_it_does_not_matter_where_a_stream_is_cut(closing, options):
    """In one piece, event by event, byte by byte, and in two pieces at every offset."""
    events = [*EVENTS, CLOSINGS[closing]]
    whole = b"".join(events)
    once = told(SseTap(READER, **options), [whole])
    assert once[5]
    assert str(once[6]).startswith("onetwothreefour")
    assert told(SseTap(READER, **options), events) == once
    assert told(SseTap(READER, **options), [whole[at : at + 1] for at in range(len(whole))]) == once
    for at in range(1, len(whole)):
        assert told(SseTap(READER, **options), [whole[:at], whole[at:]]) == once


@given(a_stream(), st.sampled_from(OPTIONS))
def test_a_block_says_what_its_events_say(stream, options):
    _, _, chunks = stream
    assert told(SseTap(READER, **options), chunks) == told(SseTap(READER, **options), [b"".join(chunks)])
