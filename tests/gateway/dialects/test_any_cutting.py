"""However a stream is cut on its way, and whatever its lines end with: the same bytes come out, and the same usage."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.body import StructureBounds
from gateway.dialects.facts import Reported
from gateway.dialects.registry import DIALECTS
from tests.gateway.dialects import answers
from tests.gateway.dialects.anthropic import bodies

SSE = b"text/event-stream"
JSON = b"application/json"
MADE = {type(made).__name__: made for made in (make(StructureBounds()) for make in DIALECTS)}


def data(*events: Any, end: bytes = b"") -> bytes:
    return b"".join(b"data: " + json.dumps(each, ensure_ascii=False).encode() + b"\n\n" for each in events) + end


def named(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {each['type']}\n".encode() + data(each) for each in events)


def chunk(text: str | None, **fields: Any) -> dict[str, Any]:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return {"id": "c1", "choices": choices, **fields}


def piece(text: str, **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": text}]}, "index": 0, **fields}]}


PIECES = (
    {**piece('Grüße, "data: [DONE]"'), "usageMetadata": answers.gemini(10, 2)},
    {
        **piece(" }]", finishReason="STOP"),
        "usageMetadata": answers.gemini(10, 7, 3, promptTokensDetails=answers.by(TEXT=10)),
    },
)
USAGE = answers.response(36, 87, 12, 60)
STREAMS = (
    (
        "OpenAIDialect",
        SSE,
        data(chunk("Grüße"), chunk('"usage": {'), chunk(None, usage=answers.chat(9, 4)), end=b"data: [DONE]\n\n"),
    ),
    (
        "OpenAIDialect",
        SSE,
        b": hi\n\n"
        + data(chunk("a", usage=answers.chat(9, 1)), chunk("b", usage=answers.chat(9, 2)), end=b"data: [DONE]\n\n"),
    ),
    ("OpenAIDialect", SSE, data(chunk("a"), chunk("", x_groq={"usage": answers.chat(9, 4)}), end=b"data: [DONE]\n\n")),
    ("AnthropicDialect", SSE, b"".join(bodies.stream("Grüße, ", '"message_stop"', cache_read_input_tokens=7))),
    (
        "ResponsesDialect",
        SSE,
        named(
            {"type": "response.created", "response": {"id": "r", "usage": None}},
            {"type": "response.output_text.delta", "delta": 'Grüße "response.completed"'},
            {
                "type": "response.completed",
                "response": {"id": "r", "output": [], "service_tier": "flex", "usage": USAGE},
            },
        ),
    ),
    ("GeminiDialect", SSE, data(*PIECES)),
    ("GeminiDialect", JSON, b"[" + b"\n,\r\n".join(json.dumps(each, indent=1).encode() for each in PIECES) + b"\n]\n"),
)


def passed(name: str, kind: bytes, chunks: list[bytes], *, usage_added: bool) -> tuple[bytes, Reported | None, bool]:
    tap = MADE[name].tap(kind, usage_added=usage_added, include_cost=False)
    out = b"".join(map(tap.feed, chunks))
    tap.end()
    reported, done = tap.reported, tap.done
    return out + tap.finish(), reported, done


def test_every_dialect_that_streams_is_here():
    """But for rerank, which never does, and frames of a WebSocket, which are never cut."""
    assert {name for name, _, _ in STREAMS} == MADE.keys() - {"RerankDialect", "SocketDialect"}


@pytest.mark.parametrize("usage_added", [False, True])
@settings(max_examples=30)
@given(stream=st.sampled_from(STREAMS), at=st.lists(st.integers(0, 2_000), max_size=20), returns=st.booleans())
def test_any_cutting_gives_the_same_bytes_and_usage(stream, at, returns, usage_added):
    name, kind, whole = stream
    if returns and kind == SSE:
        whole = whole.replace(b"\n", b"\r\n")
    places = sorted({0, len(whole), *(place % (len(whole) + 1) for place in at)})
    uncut = passed(name, kind, [whole], usage_added=usage_added)
    assert passed(name, kind, [whole[a:b] for a, b in pairwise(places)], usage_added=usage_added) == uncut
    out, reported, done = uncut
    assert (reported is not None, done) == (True, True)
    assert out == whole or (usage_added and name == "OpenAIDialect")
