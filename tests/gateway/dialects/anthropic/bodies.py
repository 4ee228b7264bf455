"""Requests and streams in Anthropic's format, as its reference has them."""

import json
from typing import Any

SAY = [{"role": "user", "content": "Hello"}]


def message(**fields: Any) -> bytes:
    return json.dumps({"model": "claude-haiku-4-5", "max_tokens": 100, "messages": SAY} | fields).encode()


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 500,
    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
    "output_tokens": 1,
    "service_tier": "standard",
    "inference_geo": "not_available",
}


def answer(text: str = "Hello there!", **fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {**USAGE, "output_tokens": 15},
        **fields,
    }


def stream(*texts: str, usage: dict[str, Any] | None = None, **delta: Any) -> tuple[bytes, ...]:
    """The events of one answer; `usage` is that of its `message_delta`, `delta` are further counts in it."""
    started = answer() | {"content": [], "stop_reason": None, "usage": USAGE if usage is None else usage}
    return (
        event("message_start", message=started),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in texts),
        event("content_block_stop", index=0),
        event(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"output_tokens": 15} | delta,
        ),
        event("message_stop"),
    )
