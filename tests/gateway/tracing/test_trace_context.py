"""Headers of W3C Trace Context: what names a caller's span, and what is passed on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tracing.trace_context import MOST_STATE_CHARACTERS, TraceContext, header_lines, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True), ("02", False)])
def test_a_caller_is_known_by_its_header(flags, sampled):
    assert parse(f"00-{TRACE}-{SPAN}-{flags}", "a=1,b=2") == TraceContext(TRACE, SPAN, sampled, "a=1,b=2")


def test_a_later_version_may_have_more_fields():
    assert parse(f"01-{TRACE}-{SPAN}-01-more", None) == TraceContext(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\r\nX-Admin-Key: 1",
    ],
)
def test_anything_else_names_no_caller(header):
    assert parse(header, None) is None


@pytest.mark.parametrize("state", ["a" * (MOST_STATE_CHARACTERS + 1), "a=1\r\nX-Admin-Key: 1", "a=\N{SNOWMAN}"])
def test_a_state_that_makes_no_line_is_dropped(state):
    found = parse(f"00-{TRACE}-{SPAN}-01", state)
    assert found is not None
    assert found.state == ""


@given(st.text(max_size=120), st.text(max_size=40))
def test_whatever_a_client_sends_makes_lines_of_two_headers_at_most(header, state):
    caller = parse(f"00-{TRACE}-{SPAN}-01", state)
    assert caller is not None
    parse(header, state)
    lines = header_lines(TRACE, SPAN, sampled=True, state=caller.state).split(b"\r\n")
    assert lines[0] == f"traceparent: 00-{TRACE}-{SPAN}-01".encode()
    assert all(line.startswith(b"tracestate: ") for line in lines[1:-1])
    assert lines[-1] == b""
