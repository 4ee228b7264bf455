"""Streams of OpenAI's API as bytes, and what a tap made of one."""

import json
from typing import Any

from billing.usage import Usage
from gateway.dialects.openai.events import OpenAIEvents
from gateway.dialects.streaming import SseTap

READER = OpenAIEvents()
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c1"} | fields, separators=(",", ":")).encode() + b"\n\n"


def says(text: str, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], **fields)


def usage_event(prompt: int, completion: int, **fields: Any) -> bytes:
    return event(**{"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}} | fields)


def run(tap: SseTap, chunks: list[bytes], charge_usd: str | None = None) -> tuple[bytes, bytes]:
    """What came before the end, and what `finish` held back."""
    passed = b"".join(map(tap.feed, chunks))
    tap.end()
    return passed, tap.finish(charge_usd)


def used(tap: SseTap) -> tuple[int, int] | None:
    usage: Usage | None = tap.reported.usage if tap.reported else None
    return (usage.input_tokens, usage.output_tokens) if usage else None


EVENTS = [
    event(choices=[{"index": 0, "delta": {"role": "assistant", "content": None}}]),
    says("one"),
    says("two").replace(b"\n\n", b"\r\n\r\n"),
    event(choices=[{"index": 0, "delta": {"a_field_of_next_year": "three"}}]),
    says("four", usage=None),
    b": a comment\n\n",
]
