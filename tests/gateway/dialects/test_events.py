"""Events as bytes: what is found by searches for one byte is what the pattern of an event's end finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.streaming import event_data, first_event, split_events
from tests.gateway.dialects.openai.test_events import without_null_usage

PIECES = st.lists(
    st.sampled_from([b"\n", b"\r", b"\n\n", b"\r\n", b"data: {", b"}", b"data:", b": x", b"\xef\xbb\xbf"]), max_size=12
).map(b"".join)


@given(PIECES, st.integers(0, 40))
def test_the_first_event_is_the_one_that_the_pattern_finds(block, start):
    assert first_event(block, start) == next(split_events(block, start), b"")


@given(PIECES)
def test_an_event_of_one_line_has_the_data_that_any_event_has(inner):
    event = b"data: {" + inner + b"}\n\n"
    assert event_data(event) == event_data(b": a comment\n" + event)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        (b'data: {"a":1,"usage":null}\n\n', b'data: {"a":1}\n\n'),
        (b'data: {"usage":null,"a":1}\n\n', b'data: {"a":1}\n\n'),
        (b'data: {"a":{"usage":null},"usage": null}\n\n', b'data: {"a":{"usage":null}}\n\n'),
        (b'data: {"usage":{"a":1}}\n\n', b'data: {"usage":{"a":1}}\n\n'),
        (b'data: {"a":"\\"usage\\":null"}\n\n', b'data: {"a":"\\"usage\\":null"}\n\n'),
    ],
)
def test_usage_that_is_null_is_taken_out_of_the_event_alone(written, left):
    assert without_null_usage(written) == left
    usage = b'data: {"usage":{"total_tokens":3}}\n\n'
    assert without_null_usage(usage + written + usage) == usage + left + usage
