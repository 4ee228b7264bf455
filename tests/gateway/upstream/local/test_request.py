"""What the local provider refuses, as OpenAI refuses it."""

import json

import pytest

from tests.support.local_answers import LIMIT_BYTES, ask, request
from tests.support.tables import Tables

TABLES = Tables(__file__)

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBED = "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b'{"model": "\xff"}', b'{"a": 1} x', b"[]", b"null", b"[" * 100_000]
)
async def test_a_body_that_is_no_json_object_is_refused(local, body):
    answer = await local.send(request(CHAT, body))
    error = json.loads(await answer.read(LIMIT_BYTES))["error"]
    assert answer.status == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)


@TABLES.each("what_openai_refuses_is_refused")
async def test_what_openai_refuses_is_refused(local, path, body, param, code):
    status, answer = await ask(local, path, **body)
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)


async def test_unknown_parameters_are_left_alone(local):
    status, _ = await ask(
        local, CHAT, model="m", messages=HELLO, temperature=2, tools=[], novelty={"a": 1}, max_tokens=None, stop=None
    )
    assert status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions/", "/chat/completions", ""])
async def test_other_paths_are_not_found(local, path):
    status, answer = await ask(local, path)
    assert status == 404
    assert answer["error"]["message"] == f"Invalid URL (POST {path})"


async def test_other_methods_are_not_allowed(local):
    status, _ = await ask(local, CHAT, "GET")
    assert status == 405
