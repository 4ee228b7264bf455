"""What passed of a long stream is packed: that changes no answer about it, and keeps a stream small."""

import sys
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import streaming
from gateway.dialects.gemini import streams
from gateway.dialects.gemini.streams import EventFrames, GeminiTap
from gateway.dialects.openai.events import OpenAIEvents
from gateway.dialects.streaming import SseTap

CHAT = st.sampled_from(
    [
        b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n',
        b'data: {"choices":[{"index":1,"delta":{"content":"other"},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n',
        b'data: {"choices":[{"index":0,"delta":{}}],"usage":null}\n\n',
        b": ping\n\n",
        b'data: {"error":{"message":"no"}}\n\n',
    ]
)
PIECES = st.sampled_from(
    [
        b'data: {"candidates":[{"content":{"parts":[{"text":"word"}]}}],"usageMetadata":{"promptTokenCount":1,'
        b'"candidatesTokenCount":2,"totalTokenCount":3}}\r\n\r\n',
        b'data: {"candidates":[{"content":{"parts":[{"text":"no count"}]}}]}\r\n\r\n',
        b'data: {"candidates":[{"content":{"parts":[{"executableCode":{"code":"1"}}]}}]}\r\n\r\n',
        b'data: {"candidates":[{"content":{"parts":[{"text":"."}]},"finishReason":"STOP"}]}\r\n\r\n',
    ]
)


def told(tap: SseTap | GeminiTap, events: list[bytes]) -> tuple[object, ...]:
    """Return all that a tap says of a stream that came in these pieces."""
    passed = [tap.feed(event) for event in events]
    tap.end()
    told = (tap.reported, tap.done, tap.stale, tap.began_output, tap.tool_calls, tap.error_seen, tap.output())
    return (*told, tap.extrapolate(100), b"".join(passed), tap.finish())


@pytest.mark.parametrize(
    ("module", "made", "drawn"),
    [
        (streaming, lambda: SseTap(OpenAIEvents(), keep_bytes=2_000), CHAT),
        (streams, lambda: GeminiTap(EventFrames(), keep_bytes=2_000), PIECES),
    ],
)
def test_a_packed_stream_says_what_one_says_that_is_kept_as_it_is(module, made, drawn):
    @given(st.lists(st.lists(drawn, min_size=1, max_size=3).map(b"".join), max_size=30))
    def same(events):
        whole = told(made(), events)
        with patch.object(module, "MAX_PLAIN_BYTES", 150):
            assert told(made(), events) == whole

    same()


def test_a_stream_of_two_thousand_events_takes_less_than_64_kb():
    event = b'data: {"id":"chatcmpl-B9","choices":[{"index":0,"delta":{"content":" word%d"},"logprobs":null}]%s}\n\n'
    tap = SseTap(OpenAIEvents(), strip_usage=True)
    for number in range(2_000):
        tap.feed(event % (number, b',"usage":null' + b" " * 80))
    assert sum(map(sys.getsizeof, (*tap._kept, *tap._packed))) < 64_000
    assert tap.output().text == "".join(f" word{number}" for number in range(2_000))
