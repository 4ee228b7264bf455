"""Anthropic's format, the output: what a model wrote, in an event or a whole answer. This file owns what counts.

Any field of a content block or a delta is output but for those that name, sign or cite it (`_NO_OUTPUT`), and null. The
results of tools that run at the provider are input of the model's next turn, which usage counts.
Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.dialects.output import Output, Piece, cut_output, cut_pieces, joined

_NO_OUTPUT: Final = frozenset({"type", "id", "index", "signature", "citation", "citations", "caller", "cache_control"})
"""So does a name that ends in `_id`."""
_RESULT: Final = "_tool_result"
_NO_OUTPUT_EVENTS: Final = frozenset({"ping", "error", "message_delta", "message_stop", "content_block_stop"})
_TEXTS: Final = re.compile(
    rb'"(?:text|thinking|partial_json|content|data)"\s*:\s*"((?:[^"\\]|\\.)*)|"input"\s*:\s*(\{[^{}]*\}?)'
)


def pieces(data: bytes) -> list[tuple[int, Piece]]:
    """Return the (choice, piece) pairs of one event, in order; there is one choice. Of one that is no JSON, what can be
    told."""
    try:
        event = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return pieces_of_part(data) if data.lstrip().startswith(b"{") else []
    return [(0, piece) for piece in _of_event(event) if piece] if isinstance(event, dict) else []


def output_of(body: bytes) -> Output:
    """Return what was written in a whole answer; not `known` where it has no list of content blocks."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Output(known=False)
    content = answer.get("content") if isinstance(answer, dict) else None
    failed = isinstance(answer, dict) and bool(answer.get("error"))
    if not isinstance(content, list):
        return Output(known=False, failed=failed)
    found = joined((0, piece) for block in content for piece in _of_block(block) if piece)
    return Output(found.text, found.inline, failed=failed)


def output_of_part(part: bytes) -> Output:
    """Return what can be told of an answer that is not here to its end; not `known` where something is here that says
    nothing."""
    return cut_output(_TEXTS, part)


def pieces_of_part(data: bytes) -> list[tuple[int, Piece]]:
    """Return what can be told of an event that broke off: its text; data where it is long and has none."""
    return cut_pieces(_TEXTS, data, "file")


def _of_event(event: dict[str, Any]) -> Iterator[str]:
    kind = event.get("type")
    if kind == "content_block_delta":
        yield from _of_block(event.get("delta"))
    elif kind == "content_block_start":
        yield from _of_block(event.get("content_block"))
    elif kind == "message_start":
        message = event.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            yield from _of_block(block)
    elif kind not in _NO_OUTPUT_EVENTS and not event.get("error"):
        yield from _of_block(event)


def _of_block(block: Any) -> Iterator[str]:
    """The texts of a content block or a delta. An event of a kind that nobody knows is read as one."""
    if not isinstance(block, dict) or str(block.get("type", "")).endswith(_RESULT):
        return
    for name, value in block.items():
        if name in _NO_OUTPUT or name.endswith("_id") or value is None or value == {} or value == []:
            continue
        yield value if isinstance(value, str) else msgspec.json.encode(value).decode()
