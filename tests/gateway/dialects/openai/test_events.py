"""Reading events of streams in OpenAI's format, and removing those that a client did not ask for."""

import json

import msgspec
import pytest

from gateway.dialects.openai import events
from gateway.dialects.openai.events import MOST_TRIED, OpenAIEvents
from gateway.dialects.output import Output, joined
from tests.support.tables import Tables

TABLES = Tables(__file__)

EVENTS = OpenAIEvents()


def without_null_usage(block: bytes) -> bytes:
    """Return what is left of a block; where it says that usage stands, the first one does."""
    left, at = OpenAIEvents().without_null_usage(block, block.find(b'"usage"'))
    assert at == left.find(b'"usage"')
    return left


@TABLES.each("usage_that_is_null_is_taken_out_and_nothing_else")
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n"])
def test_usage_that_is_null_is_taken_out_and_nothing_else(sent, passed, end):
    expected = sent if passed is None else passed
    block = b": a comment\n\ndata: %b%b" % (sent, end)
    assert without_null_usage(block) == b": a comment\n\ndata: %b%b" % (expected, end)
    twice = b"data:%b%bid: 7\ndata: %b%b" % (sent, end, sent, end)
    if end != b"\n":
        assert without_null_usage(twice) == b"data:%b%bid: 7\ndata: %b%b" % (expected, end, expected, end)


def test_facts_of_events():
    only = EVENTS.facts(b'{"choices": [ ], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}')
    assert only.is_usage_only
    assert only.reported is not None
    verdict = EVENTS.facts(b'{"choices":[],"moderation":{"results":[]},"usage":{"prompt_tokens":1,"total_tokens":1}}')
    assert verdict.has_usage
    assert not verdict.is_usage_only
    beside = EVENTS.facts(b'{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}')
    assert beside.has_usage
    assert not beside.is_usage_only
    none = EVENTS.facts(b'{"choices":[],"usage":null,"prompt_filter_results":[]}')
    assert not none.has_usage
    assert not none.is_usage_only
    groq = EVENTS.facts(b'{"choices":[{}],"x_groq":{"id":"r","usage":{"prompt_tokens":1,"completion_tokens":2}}}')
    assert groq.reported.usage.output_tokens == 2
    assert not EVENTS.facts(b'{"choices":[{}],"x_groq":{"usage":[]}}').reported
    assert not EVENTS.facts(b'{"choices":[{}],"x_groq":5}').reported
    assert EVENTS.facts(b'{"error":{"message":"x"}}').is_error
    assert not EVENTS.facts(b'{"error":null}').is_error
    assert not EVENTS.facts(b"half {").is_error


def test_texts_of_events():
    event = {
        "choices": [
            {"index": 1, "delta": {"role": "assistant", "content": "a", "reasoning_content": "r", "reasoning": "r"}},
            {"index": 0, "text": "t"},
            {
                "delta": {
                    "content": [{"type": "text", "text": "p"}, {"type": "thinking", "thinking": [{"text": "q"}]}],
                    "tool_calls": [{"id": "no", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                    "refusal": "s",
                    "audio": {"id": "no", "data": "AAAA", "transcript": "u"},
                }
            },
            {"index": "x", "delta": {"content": ""}},
            5,
        ]
    }
    found = joined(EVENTS.pieces(json.dumps(event).encode()))
    assert found == Output("tpqf{}sAAAAuar")
    for odd in (b"", b"[]", b'{"choices":5}', b'{"choices":[{"delta":[]}]}', b"\xff", b"[DONE]"):
        assert EVENTS.pieces(odd) == []


def test_the_cost_goes_into_the_usage():
    told = b'{"a":1.0,"usage":{"x":1,"cost_usd":"0.01","charge_usd":"0.01"}}'
    assert EVENTS.with_charge(b'{"a": 1.0, "usage": {"x": 1}}', "0.01") == told
    for without in (b'{"usage":null}', b'{"a":1}', b"[DONE]"):
        assert EVENTS.with_charge(without, "0.01") == without


@pytest.mark.parametrize("choices", [b"[]", b"[ ]", b'[{"index":0,"delta":{"content":"a"}}]', b"null", None])
@pytest.mark.parametrize("error", [b"null", b'{"message":"x"}', b'"x"', None])
@pytest.mark.parametrize(
    "usage", [b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}', b'{"prompt_tokens":0}', b"null", b"{}"]
)
def test_an_event_says_the_same_read_in_one_go_or_field_by_field(usage, error, choices):
    fields = {b"usage": usage, b"error": error, b"choices": choices, b"model": b'"m"'}
    data = b"{" + b",".join(b'"%b":%b' % (name, raw) for name, raw in fields.items() if raw is not None) + b"}"
    assert OpenAIEvents().facts(data) == OpenAIEvents._facts(data)


@pytest.mark.parametrize("own", ["first", "last", "none"])
def test_usage_that_is_null_is_looked_for_a_bounded_number_of_times(own, monkeypatch):
    """Each look costs the whole event: one that echoes a thousand of them must not stand in everybody's way."""
    nested = b'"echo":[%b]' % b",".join([b'{"usage": null}'] * 1000)
    block = {
        "first": b'data: {"usage": null,%b,"z":1}\n\n',
        "last": b'data: {"a":1,%b,"usage": null}\n\n',
        "none": b'data: {"a":1,%b,"z":1}\n\n',
    }[own]
    looks = 0

    class Counted:
        def decode(self, data: bytes) -> dict[str, msgspec.Raw]:
            nonlocal looks
            looks += 1
            return fields.decode(data)

    fields = events.FIELDS
    monkeypatch.setattr(events, "FIELDS", Counted())
    left = without_null_usage(block % nested)
    assert left == block.replace(b'"usage": null,', b"").replace(b',"usage": null', b"") % nested
    assert looks <= 1 + 2 * MOST_TRIED


def test_only_events_that_say_usage_is_null_are_decoded_for_it(monkeypatch):
    """A burst of events with usage in the last of them must not cost a look at each."""
    monkeypatch.setattr(events, "FIELDS", None)
    block = b'data: {"choices":[1]}\n\n' * 50 + b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    assert without_null_usage(block) == block
