"""The local provider in Anthropic's format."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic.usage import AnthropicEvents
from gateway.dialects.streaming import SseTap
from tests.support.local_answers import ask, request

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO: dict[str, Any] = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_message_and_its_stream_say_the_same(local):
    status, whole = await ask(local, MESSAGES, **HELLO, max_tokens=500, system="Be brief.")
    assert (status, whole["type"], whole["stop_reason"]) == (200, "message", "end_turn")
    streamed = await local.send(request(MESSAGES, {**HELLO, "max_tokens": 500, "system": "Be brief.", "stream": True}))
    tap = SseTap(AnthropicEvents())
    async for chunk in streamed.chunks():
        tap.feed(chunk)
    tap.end()
    assert tap.done
    assert tap.output().text == whole["content"][0]["text"]
    used = tap.reported.usage
    assert (used.input_tokens, used.output_tokens) == (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"])


async def test_what_bounds_a_message(local):
    _, cut = await ask(local, MESSAGES, **HELLO, max_tokens=3)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 3)
    _, stopped = await ask(local, MESSAGES, **HELLO, max_tokens=500, stop_sequences=["."])
    assert "." not in stopped["content"][0]["text"]


async def test_tokens_are_counted(local):
    _, whole = await ask(local, MESSAGES, **HELLO, max_tokens=3)
    assert await ask(local, COUNT, **HELLO) == (200, {"input_tokens": whole["usage"]["input_tokens"]})


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 0}, {"max_tokens": 5, "stop_sequences": "a"}])
async def test_refusals_have_anthropic_s_shape(local, fields):
    status, refused = await ask(local, MESSAGES, **HELLO, **fields)
    assert (status, refused["type"], refused["error"]["type"]) == (400, "error", "invalid_request_error")
    assert json.dumps(refused).count("max_tokens") + json.dumps(refused).count("stop_sequences") == 1
