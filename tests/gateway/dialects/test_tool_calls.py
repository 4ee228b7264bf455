"""Calls of tools at the provider that a stream tells of: counted once each, however the stream is cut."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic.usage import AnthropicEvents
from gateway.dialects.openai.events import OpenAIEvents
from gateway.dialects.openai_responses.answer import ResponseEvents
from gateway.dialects.streaming import SseTap


def named(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def item(kind: str, event: str = "response.output_item.done", **fields: Any) -> bytes:
    return named(event, output_index=0, item={"id": "x", "type": kind, "status": "completed", **fields})


def block(kind: str, name: str = "web_search") -> bytes:
    return named("content_block_start", index=1, content_block={"type": kind, "id": "srvtoolu_1", "name": name})


RESPONSES = [
    item("web_search_call", "response.output_item.added"),
    item("web_search_call", action={"type": "search", "query": '"type":"web_search_call"'}),
    item("reasoning", summary=[]),
    item("mcp_call", arguments="{}"),
    item("code_interpreter_call"),
    item("brand_new_call"),
    *map(item, ("function_call", "custom_tool_call", "local_shell_call", "computer_call", "apply_patch_call")),
    item("message", content=[{"type": "output_text", "text": '{"type":"web_search_call"}'}]),
    named("response.output_text.delta", delta='"response.output_item.done" "type":"mcp_call"'),
]
MESSAGES = [
    block("text"),
    block("server_tool_use"),
    block("web_search_tool_result"),
    block("server_tool_use"),
    block("mcp_tool_use", "code_execution"),
    block("tool_use"),
    *(block("server_tool_use", name) for name in ("code_execution", "bash_code_execution")),  # within a search
    named("content_block_delta", delta={"type": "text_delta", "text": 'content_block_start "type":"mcp_tool_use"'}),
]


@pytest.mark.parametrize(
    ("reader", "events", "calls"), [(ResponseEvents, RESPONSES, 4), (AnthropicEvents, MESSAGES, 3)]
)
@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_each_call_counts_once(reader, events, calls, size):
    tap, stream = SseTap(reader()), b"".join(events)
    for start in range(0, len(stream), size):
        tap.feed(stream[start : start + size])
        assert tap.tool_calls <= calls
    assert tap.tool_calls == tap.tool_calls == calls


def test_chats_tell_of_none():
    tap = SseTap(OpenAIEvents())
    tap.feed(b'data: {"choices":[{"delta":{"tool_calls":[{"type":"web_search_call"}]}}]}\n\n')
    assert tap.tool_calls == 0
