"""How usage in Anthropic's format is read, whole and over a stream."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import Usage
from gateway.dialects.anthropic.content import OUTPUT
from gateway.dialects.anthropic.usage import AnthropicEvents, counted_from_json, usage_from_json
from gateway.dialects.body import GarbageAnswer
from gateway.dialects.facts import Reported
from gateway.dialects.streaming import SseTap
from tests.gateway.dialects.anthropic.bodies import answer, event, stream
from tests.support.tables import Tables

TABLES = Tables(__file__)

WHOLE = Usage(
    input_tokens=540, output_tokens=15, cached_input_tokens=500, cache_write_tokens=20, cache_write_1h_tokens=10
)


def read(**usage: Any) -> Reported | None:
    return usage_from_json(json.dumps(answer(usage=usage)).encode())


def known(**usage: Any) -> Reported:
    reported = read(**usage)
    assert reported is not None
    return reported


def tapped(*chunks: bytes) -> tuple[SseTap, bytes]:
    tap = SseTap(AnthropicEvents())
    out = b"".join(tap.feed(chunk) for chunk in chunks)
    tap.end()
    return tap, out + tap.finish()


def test_a_whole_answer():
    reported = usage_from_json(json.dumps(answer()).encode())
    assert reported == Reported(WHOLE, service_tier="standard", model="claude-haiku-4-5")


def test_variants_are_the_answer_s_own():
    reported = known(input_tokens=1, output_tokens=1, service_tier="batch", inference_geo="us", speed="fast")
    assert (reported.service_tier, reported.processing, reported.region, reported.speed) == (
        None,
        "batch",
        "us",
        "fast",
    )
    assert known(input_tokens=1, inference_geo="global").region is None


@TABLES.each("cache_writes_by_how_long_they_stay")
def test_cache_writes_by_how_long_they_stay(usage, five_minutes, hour):
    counted = known(input_tokens=5, output_tokens=1, **usage).usage
    assert (counted.cache_write_tokens, counted.cache_write_1h_tokens) == (five_minutes, hour)
    assert counted.input_tokens == 5 + five_minutes + hour


def test_thinking_is_within_the_output_and_searches_beside_it():
    counted = known(
        input_tokens=5,
        output_tokens=50,
        output_tokens_details={"thinking_tokens": 40},
        server_tool_use={"web_search_requests": 3, "web_fetch_requests": 2},
    ).usage
    assert (counted.output_tokens, counted.reasoning_tokens, counted.searches) == (50, 40, 3)


def test_code_that_ran_is_one_session():
    reported = usage_from_json(json.dumps(answer(container={"id": "c", "expires_at": "x"})).encode())
    assert reported.usage.named == {"call.code_execution": 1}


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"input_tokens": None},
        {"input_tokens": -5, "output_tokens": "9"},
        {"input_tokens": 2**40},
    ],
)
def test_what_counts_nothing_is_no_usage(usage):
    assert read(**usage) is None


def test_zeros_are_a_report_of_nothing():
    reported = read(input_tokens=0, output_tokens=0)
    assert reported.counts_nothing
    assert read(input_tokens=0, output_tokens=0, server_tool_use={"web_search_requests": 1}) is None


@TABLES.each("what_can_t_be_placed_is_an_anomaly")
def test_what_can_t_be_placed_is_an_anomaly(counts, anomaly):
    reported = read(input_tokens=3, output_tokens=5, **counts)
    assert reported.anomalies == (anomaly,)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"usage": {', b"[1]"])
def test_what_is_no_answer(body):
    for reads in (usage_from_json, counted_from_json):
        with pytest.raises(GarbageAnswer):
            reads(body)


def test_the_answer_of_a_count_was_not_used():
    assert counted_from_json(b'{"input_tokens": 2095}') == Reported(Usage())


def entry(kind: str, tokens: int, output: int, **more: Any) -> dict[str, Any]:
    return {"type": kind, "input_tokens": tokens, "output_tokens": output, **more}


def test_a_compaction_is_billed_beside_the_message():
    """As in the documentation: 180,000 tokens are in no count at the top."""
    iterations = [entry("compaction", 180_000, 3_500), entry("message", 23_000, 1_000)]
    reported = known(input_tokens=23_000, output_tokens=1_000, iterations=iterations)
    assert (reported.usage.input_tokens, reported.usage.output_tokens) == (203_000, 4_500)
    assert (reported.others, reported.model) == ((), "claude-haiku-4-5")


def test_an_advisor_is_priced_as_itself():
    iterations = [
        entry("message", 100, 10),
        entry("advisor_message", 900, 300, model="claude-opus-5", cache_read_input_tokens=50),
        entry("message", 200, 20),
        entry("advisor_message", 100, 30, model="claude-opus-5"),
    ]
    reported = known(input_tokens=100, output_tokens=30, iterations=iterations)
    assert reported.usage == Usage(input_tokens=300, output_tokens=30)
    (advisor,) = reported.others
    assert advisor.model == "claude-opus-5"
    assert advisor.usage == Usage(input_tokens=1_050, output_tokens=330, cached_input_tokens=50, requests=0)
    assert reported.total.total_tokens == 300 + 30 + 1_050 + 330


def test_a_fallback_is_priced_as_itself_and_what_declined_at_once_is_free():
    declined, wrote = entry("message", 500, 0), entry("message", 500, 40)
    served = entry("fallback_message", 700, 60, model="claude-sonnet-4")
    reported = known(input_tokens=500, output_tokens=60, iterations=[declined, served])
    assert reported.usage == Usage()
    assert reported.model is None
    assert [(each.model, each.usage.total_tokens) for each in reported.others] == [("claude-sonnet-4", 760)]
    reported = known(input_tokens=500, output_tokens=100, iterations=[wrote, served])
    assert (reported.usage.input_tokens, reported.usage.output_tokens) == (500, 40)
    turn = entry("message", 10, 0, model="claude-sonnet-4")
    reported = known(input_tokens=1, output_tokens=1, iterations=[turn, served])
    assert [each.usage.input_tokens for each in reported.others] == [710]


def test_a_stream_keeps_what_only_its_beginning_says():
    tap, out = tapped(*stream("Hello", " there!"))
    assert out == b"".join(stream("Hello", " there!"))
    assert tap.reported == Reported(WHOLE, service_tier="standard", model="claude-haiku-4-5")
    assert (tap.done, tap.stale, tap.error_seen) == (True, False, False)
    assert tap.output().text == "Hello there!"


def test_later_counts_replace_earlier_ones():
    """Kimi's and Qwen's endpoints tell the whole prompt first and its true split last."""
    usage = {"input_tokens": 5_000, "output_tokens": 1}
    split = {"input_tokens": 200, "cache_read_input_tokens": 4_800, "cache_creation_input_tokens": None}
    tap, _ = tapped(*stream("a", usage=usage, **split))
    counted = tap.reported.usage
    assert (counted.input_tokens, counted.cached_input_tokens, counted.output_tokens) == (5_000, 4_800, 15)


SPOKEN = stream("Hello", ' "usage": {"input_tokens": 9}', "\n\nevent: message_stop", " \u00e9\u4e2d")
FORMS = (
    b"".join(SPOKEN),
    b"".join(SPOKEN).replace(b"\n", b"\r\n"),
    b"\xef\xbb\xbf" + b"".join(SPOKEN).replace(b"data: ", b"data:").replace(b"event: ", b"event:"),
    b": comment\n\n" + b": keep\n\n".join(SPOKEN),
    b"".join(part.partition(b"\n")[2] for part in SPOKEN),
)


@given(st.sampled_from(FORMS), st.lists(st.integers(0, 4_000), max_size=30), st.booleans())
def test_any_cutting_gives_the_same_bytes_and_usage(text, cuts, each_byte):
    ends = list(range(len(text))) if each_byte else sorted({min(cut, len(text)) for cut in cuts})
    chunks = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    tap = SseTap(AnthropicEvents())
    early = b"".join(tap.feed(chunk) for chunk in chunks)
    assert b'"type":"message_stop"' not in early.replace(b"\\n", b"")
    tap.end()
    assert early + tap.finish() == text
    assert (tap.reported.usage, tap.done, tap.stale) == (WHOLE, True, False)


def test_a_stream_that_broke_off_has_what_was_read():
    tap, _ = tapped(
        *stream("Hello", " there!")[:-3], b'event: content_block_delta\ndata: {"type":"content_block_delta","del'
    )
    assert tap.reported.usage.input_tokens == 540
    assert (tap.done, tap.stale, tap.began_output) == (False, True, True)


@pytest.mark.parametrize(
    "text", ["message_stop", "\n\nevent: message_stop\n", '{"type":"message_stop"} "stop_reason":"x"']
)
def test_a_model_that_writes_of_an_end_has_not_come_to_it(text):
    """Else it would be its client's to say when a stream is no longer watched."""
    assert not tapped(*stream(text)[:-2])[0].done
    assert tapped(*stream(text))[0].done


def test_an_error_in_a_stream():
    broken = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    tap, out = tapped(*stream("Hello")[:4], broken)
    assert (tap.error_seen, tap.done) == (True, False)
    assert out.endswith(broken)
    quoted = event("content_block_delta", index=0, delta={"type": "text_delta", "text": '"error"'})
    assert not tapped(quoted)[0].error_seen


@TABLES.each("what_counts_as_output")
def test_what_counts_as_output(delta, text):
    tap, _ = tapped(event("content_block_delta", index=0, delta=delta))
    assert (tap.output().text, tap.began_output) == (text, bool(text))


def test_blocks_that_begin_with_something():
    found = {"type": "web_search_tool_result", "content": [{"encrypted_content": "x" * 99}]}
    used = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    tap, _ = tapped(*(event("content_block_start", index=0, content_block=block) for block in (found, used)))
    assert tap.output().text == "look"


def test_the_output_of_whole_answers_and_of_parts():
    body = json.dumps(answer("Hello")).encode()
    assert (OUTPUT.output(body).text, OUTPUT.output(body).known) == ("Hello", True)
    assert not OUTPUT.output(b'{"type": "message"}').known
    assert OUTPUT.output(b'{"type": "error", "error": {"type": "api_error"}}').failed
    assert OUTPUT.output_of_part(body[: body.index(b"stop_reason")]).text == "Hello"


def test_the_cost_stands_in_the_last_usage():
    tap = SseTap(AnthropicEvents(), hold_usage=True)
    early = b"".join(map(tap.feed, stream("Hello")))
    tap.end()
    out = early + tap.finish("0.5")
    assert b'"usage":{"output_tokens":15,"cost_usd":"0.5","charge_usd":"0.5"}' in out
    assert out.count(b"charge_usd") == 1
