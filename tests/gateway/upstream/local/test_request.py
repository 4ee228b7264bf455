"""What the local provider refuses, as OpenAI refuses it."""

import json
from typing import Any

import pytest

from gateway.upstream.local.provider import LocalTransport
from tests.support.local_answers import LIMIT_BYTES, ask, request

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBED = "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b'{"model": "\xff"}', b'{"a": 1} x', b"[]", b"null", b"[" * 100_000]
)
async def test_a_body_that_is_no_json_object_is_refused(local: LocalTransport, body: bytes) -> None:
    answer = await local.send(request(CHAT, body))
    error = json.loads(await answer.read(LIMIT_BYTES))["error"]
    assert answer.status == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (CHAT, {"model": "m"}, "messages", "missing_required_parameter"),
        (CHAT, {"model": "m", "messages": None}, "messages", "missing_required_parameter"),
        (CHAT, {"model": "m", "messages": []}, "messages", "empty_array"),
        (CHAT, {"model": "m", "messages": "hi"}, "messages", "invalid_type"),
        (CHAT, {"model": "m", "messages": ["hi"]}, "messages", "invalid_type"),
        (CHAT, {"messages": HELLO}, None, None),
        (CHAT, {"model": 3, "messages": HELLO}, None, None),
        (CHAT, {"model": "m", "messages": HELLO, "n": 0}, "n", "integer_below_min_value"),
        (CHAT, {"model": "m", "messages": HELLO, "n": 129}, "n", "integer_above_max_value"),
        (CHAT, {"model": "m", "messages": HELLO, "n": True}, "n", "invalid_type"),
        (CHAT, {"model": "m", "messages": HELLO, "n": 1.5}, "n", "invalid_type"),
        (CHAT, {"model": "m", "messages": HELLO, "max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        (CHAT, {"model": "m", "messages": HELLO, "max_tokens": "5"}, "max_tokens", "invalid_type"),
        (
            CHAT,
            {"model": "m", "messages": HELLO, "max_tokens": 5, "max_completion_tokens": 5},
            "max_tokens",
            "invalid_parameter_combination",
        ),
        (CHAT, {"model": "m", "messages": HELLO, "stop": 3}, "stop", "invalid_type"),
        (CHAT, {"model": "m", "messages": HELLO, "stop": [None]}, "stop", "invalid_type"),
        (CHAT, {"model": "m", "messages": HELLO, "stop": list("abcde")}, "stop", "array_above_max_length"),
        (CHAT, {"model": "m", "messages": HELLO, "stream": "yes"}, "stream", "invalid_type"),
        (CHAT, {"model": "m", "messages": HELLO, "stream_options": {"include_usage": True}}, "stream_options", None),
        (
            CHAT,
            {"model": "m", "messages": HELLO, "stream": True, "stream_options": 1},
            "stream_options",
            "invalid_type",
        ),
        (
            CHAT,
            {"model": "m", "messages": HELLO, "stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
        ),
        (CHAT, {"model": "m", "messages": HELLO, "service_tier": "gold"}, "service_tier", "invalid_value"),
        (CHAT, {"model": "m", "messages": HELLO, "metadata": {"delay_ms": 5}}, "metadata.delay_ms", "invalid_value"),
        (
            CHAT,
            {"model": "m", "messages": HELLO, "metadata": {"chunk_delay_ms": "600001"}},
            "metadata.chunk_delay_ms",
            "invalid_value",
        ),
        (TEXT, {"model": "m"}, "prompt", "missing_required_parameter"),
        (TEXT, {"model": "m", "prompt": []}, "prompt", "empty_array"),
        (TEXT, {"model": "m", "prompt": {"a": 1}}, "prompt", "invalid_type"),
        (TEXT, {"model": "m", "prompt": ["a"] * 129}, "prompt", "array_above_max_length"),
        (TEXT, {"model": "m", "prompt": "a", "n": 3, "best_of": 2}, "best_of", None),
        (TEXT, {"model": "m", "prompt": "a", "best_of": 21}, "best_of", "integer_above_max_value"),
        (TEXT, {"model": "m", "prompt": "a", "best_of": 2, "stream": True}, "best_of", None),
        (EMBED, {"model": "m"}, "input", "missing_required_parameter"),
        (EMBED, {"model": "m", "input": ""}, "input", "empty_string"),
        (EMBED, {"model": "m", "input": ["a", ""]}, "input", "empty_string"),
        (EMBED, {"model": "m", "input": ["a", [1]]}, "input", "invalid_type"),
        (EMBED, {"model": "m", "input": [-1]}, "input", "invalid_type"),
        (EMBED, {"model": "m", "input": ["a"] * 2_049}, "input", "array_above_max_length"),
        (EMBED, {"model": "m", "input": "a", "dimensions": 3_073}, "dimensions", "integer_above_max_value"),
        (EMBED, {"model": "m", "input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
    ],
)
async def test_what_openai_refuses_is_refused(
    local: LocalTransport, path: str, body: dict[str, Any], param: str | None, code: str | None
) -> None:
    status, answer = await ask(local, path, **body)
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)


async def test_unknown_parameters_are_left_alone(local: LocalTransport) -> None:
    status, _ = await ask(
        local, CHAT, model="m", messages=HELLO, temperature=2, tools=[], novelty={"a": 1}, max_tokens=None, stop=None
    )
    assert status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions/", "/chat/completions", ""])
async def test_other_paths_are_not_found(local: LocalTransport, path: str) -> None:
    status, answer = await ask(local, path)
    assert status == 404
    assert answer["error"]["message"] == f"Invalid URL (POST {path})"


async def test_other_methods_are_not_allowed(local: LocalTransport) -> None:
    status, _ = await ask(local, CHAT, "GET")
    assert status == 405
