"""W3C Trace Context, level 1: which trace a request belongs to (https://www.w3.org/TR/trace-context/). Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
# A list of 512 characters must be passed on; a longer one may be dropped.
MOST_STATE_CHARACTERS: Final = 512
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_FORBIDDEN_VERSION: Final = "ff"
_SAMPLED: Final = 1


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """The caller's span: ids in lower-case hex, `sampled` the caller's decision, `state` its tracestate or ""."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""


def parse(parent: str | None, state: str | None) -> TraceContext | None:
    """Return the caller's span by its headers; None where there is none, or it is invalid."""
    found = None if parent is None else _PARENT.fullmatch(parent.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == _FORBIDDEN_VERSION or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), _passable(state))


def _passable(state: str | None) -> str:
    """Return a tracestate that can be passed on in a header line, else ""."""
    state = (state or "").strip()
    return state if len(state) <= MOST_STATE_CHARACTERS and state.isascii() and state.isprintable() else ""


def header_lines(trace_id: str, span_id: str, *, sampled: bool, state: str) -> bytes:
    """Return the lines that tell a provider which span its own belong under."""
    lines = f"traceparent: 00-{trace_id}-{span_id}-{sampled:02x}\r\n"
    if state:
        lines += f"tracestate: {state}\r\n"
    return lines.encode()
