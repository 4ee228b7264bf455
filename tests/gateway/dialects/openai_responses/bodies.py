"""Answers of the Responses API."""

import json
from typing import Any

from billing.usage import Usage
from tests.support.gateways import CACHED, INPUT, OUTPUT

USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 4},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 60},
    "total_tokens": 123,
}
READ = Usage(input_tokens=36, cached_input_tokens=10, cache_write_tokens=4, output_tokens=87, reasoning_tokens=60)
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Good day.", "annotations": []}],
}


def response(**fields: Any) -> dict[str, Any]:
    made = {"id": "resp_1", "object": "response", "status": "completed", "error": None, "model": "gpt-5-2026"}
    return {**made, "output": [MESSAGE], "service_tier": "flex", "usage": USAGE, **fields}


def event(kind: str, end: bytes = b"\n", **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}).encode()
    return b"event: " + kind.encode() + end + b"data: " + data + end + end


def stream(last: str = "response.completed", end: bytes = b"\n", **fields: Any) -> bytes:
    begun = response(status="in_progress", usage=None, output=[])
    return b"".join(
        (
            event("response.created", end, response=begun),
            b": a comment" + end + end,
            event("response.output_item.added", end, item={**MESSAGE, "content": []}, output_index=0),
            event("response.output_text.delta", end, delta="Good", item_id="msg_1", output_index=0),
            event("response.output_text.delta", end, delta=" day.", item_id="msg_1", output_index=0, obfuscation="x9"),
            event("response.output_text.done", end, text="Good day.", item_id="msg_1"),
            event("response.output_item.done", end, item=MESSAGE, output_index=0),
            event(last, end, response=response(**fields)),
        )
    )


# Of the usage that `response` reports; gpt-4o-mini has no price of its own for cache writes and reasoning.
COST = 22 * INPUT + 10 * CACHED + 4 * INPUT + 87 * OUTPUT
