"""Usage, units and output of the Responses API, whole and in a stream cut in any way."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.body import GarbageAnswer
from gateway.dialects.openai.answer import ANSWER, reported_of
from gateway.dialects.openai_responses.answer import OUTPUT, ResponseEvents, usage_of
from gateway.dialects.streaming import SseTap
from tests.gateway.dialects.openai_responses.bodies import MESSAGE, READ, USAGE, event, response, stream
from tests.support.tables import Tables

TABLES = Tables(__file__)


@given(
    *(st.integers(0, 9) for _ in range(5)),
    st.sampled_from([{}, {"cached_tokens": 1, "text_tokens": 2}, {"cached_tokens": None}, {"image_tokens": 1}]),
    st.sampled_from([None, "flex", 3]),
)
def test_what_openai_writes_is_read_in_one_go_and_says_the_same(read, cached, written, reasoned, more, details, tier):
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written + more % 3}
    usage["input_tokens_details"] = {"cached_tokens": cached, **details}
    usage["output_tokens_details"] = {"reasoning_tokens": reasoned}
    body = response(usage=usage, service_tier=tier)
    slowly = reported_of(ANSWER.decode(json.dumps(body).encode()))
    assert usage_of(json.dumps(body).encode()) == slowly
    facts = ResponseEvents().facts(json.dumps({"type": "response.completed", "response": body}).encode())
    assert (facts.reported, facts.has_usage, facts.is_error) == (slowly, slowly is not None, False)
    failed = {**body, "error": {"message": "x"}}
    assert ResponseEvents().facts(json.dumps({"type": "response.failed", "response": failed}).encode()).is_error


def test_usage_of_a_whole_answer():
    reported = usage_of(json.dumps(response()).encode())
    assert (reported.usage, reported.service_tier, reported.model) == (READ, "flex", "gpt-5-2026")
    assert usage_of(json.dumps(response(usage=None)).encode()) is None
    with pytest.raises(GarbageAnswer):
        usage_of(b"<html>")


@TABLES.each("searches_that_were_done_are_counted")
def test_searches_that_were_done_are_counted(fields, searches):
    reported = usage_of(json.dumps(response(**fields)).encode())
    assert reported.usage.searches == searches


def test_output_of_a_whole_answer():
    call = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": '{"a":1}'}
    found = OUTPUT.output(json.dumps(response(output=[MESSAGE, call])).encode())
    assert found.text == 'Good day.f{"a":1}'
    assert found.known
    assert not OUTPUT.output(b'{"object":"response"}').known
    assert not OUTPUT.output(b"[]").known
    failed = OUTPUT.output(json.dumps(response(output=[], error={"code": "server_error", "message": "x"})).encode())
    assert (failed.failed, failed.empty) == (True, True)


@given(
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=200),
    end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.sampled_from(["response.completed", "response.incomplete", "response.failed"]),
    cost=st.booleans(),
)
def test_a_stream_cut_in_any_way_says_the_same(cuts, end, last, cost):
    whole = stream(last, end)
    tap = SseTap(ResponseEvents(), hold_usage=cost)
    passed, at = b"", 0
    for size in cuts * (len(whole) // sum(cuts) + 1):
        passed += tap.feed(whole[at : at + size])
        at += size
    assert whole.startswith(passed)
    assert b'"output_tokens"' not in passed  # the end is held until it is paid for
    tap.end()
    assert (tap.reported.usage, tap.done, tap.stale) == (READ, True, False)
    assert tap.output().text == "Good day."
    assert passed + tap.finish() == whole


def test_bytes_in_pieces_of_one_and_a_byte_order_mark():
    whole = b"\xef\xbb\xbf" + stream()
    tap = SseTap(ResponseEvents())
    passed = b"".join(tap.feed(whole[at : at + 1]) for at in range(len(whole)))
    assert passed + tap.finish() == whole
    assert tap.reported.usage == READ


def test_the_cost_goes_into_the_usage_of_the_terminal_event():
    tap = SseTap(ResponseEvents(), hold_usage=True)
    passed = tap.feed(stream())
    rest = tap.finish("0.0012")
    assert b"charge_usd" not in passed
    event = json.loads(rest.partition(b"data: ")[2])
    assert event["response"]["usage"] == {**USAGE, "cost_usd": "0.0012", "charge_usd": "0.0012"}


def test_metadata_that_names_a_terminal_event_ends_nothing():
    tap = SseTap(ResponseEvents())
    begun = response(usage=None, metadata={"type": "response.completed", "usage": "{"})
    passed = event("response.created", response=begun)
    assert tap.feed(passed) == passed
    assert not tap.done


def test_errors_in_a_stream():
    tap = SseTap(ResponseEvents())
    tap.feed(event("response.created", response=response(usage=None, output=[])))
    assert not tap.error_seen
    tap.feed(event("error", code="server_error", message="It failed.", param=None))
    assert (tap.error_seen, tap.done, tap.began_output) == (True, False, False)
    tap = SseTap(ResponseEvents())
    tap.feed(event("response.failed", response=response(usage=None, error={"code": "x", "message": "y"}, output=[])))
    assert (tap.error_seen, tap.done, tap.reported) == (True, True, None)
    tap = SseTap(ResponseEvents())
    tap.feed(b'data: {"error": {"message": "x"}}\n\n')
    assert tap.error_seen


def test_output_of_a_stream_that_broke_off():
    tap = SseTap(ResponseEvents())
    tap.feed(event("response.output_text.delta", delta="Good", item_id="msg_1"))
    image = {"type": "image_generation_call", "result": "A" * 400}
    tap.feed(event("response.output_item.done", item=image))
    tap.feed(b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":" day')
    tap.end()
    found = tap.output()
    assert (found.text, [each.kind for each in found.inline]) == ("Good day", ["image"])
    assert (tap.began_output, tap.done, tap.reported) == (True, False, None)
