"""Tests of providers, as an operator asks for them: what is sent, what is learnt, and that nobody is charged."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from msgspec import structs

from gateway.config.providers import TargetConfig
from gateway.config.settings import ProviderConfig, Secret, Settings
from gateway.proxy.provider_tests import said, without_secrets
from tests.gateway.conftest import Change, Gateway, GatewayOf
from tests.support.answering import answer

KEY = "sk-swordfish-of-ours"
OPENAI = "/providers/openai/test"


def two_keys(url: str) -> Change:
    """Settings whose provider `openai` is here, by two keys, and `anthropic` and `gemini` as well."""

    def change(settings: Settings) -> Settings:
        targets = (TargetConfig(url, Secret(KEY)), TargetConfig(url, Secret("sk-other-key-of-ours")))
        root = url.removesuffix("/v1")
        added = {
            "openai": ProviderConfig("openai", "openai", url, targets[0].api_key, targets=targets),
            "anthropic": ProviderConfig("anthropic", "anthropic", root, Secret(KEY)),
            "gemini": ProviderConfig("gemini", "gemini", root, Secret(KEY)),
        }
        upstream = structs.replace(settings.defaults.upstream, provider_test_s=0.5)
        defaults = structs.replace(settings.defaults, upstream=upstream)
        return replace(settings, providers={**settings.providers, **added}, defaults=defaults)

    return change


@pytest.fixture
def tested(gateway_of: GatewayOf) -> GatewayOf:
    return partial(gateway_of, at=two_keys)


async def events(request: web.Request, *lines: bytes) -> web.StreamResponse:
    """Answer with a stream of these data."""
    made = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await made.prepare(request)
    for line in lines:
        await made.write(b"data: " + line + b"\n\n")
    return made


async def ends_of(gateway: Gateway) -> list[dict[str, Any]]:
    return list((await gateway.admin("GET", "/audit?action=provider.test"))["data"])


async def test_what_is_sent_and_learnt(tested):
    asked = []

    async def serve(request):
        asked.append((request.headers["Authorization"], await request.json()))
        return await events(
            request,
            b'{"id":"x","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"OK"}}]}',
            b'{"id":"x","object":"chat.completion.chunk","model":"m","choices":[],'
            b'"usage":{"prompt_tokens":11,"completion_tokens":2,"total_tokens":13}}',
            b"[DONE]",
        )

    gateway = await tested(serve)
    found = await gateway.admin("POST", OPENAI, {"model": "gpt-4o-mini", "target": 1})
    ((authorization, body),) = asked
    assert authorization == "Bearer sk-other-key-of-ours"
    assert (body["model"], body["stream"]) == ("gpt-4o-mini", True)
    assert [body[name] for name in ("max_tokens", "max_completion_tokens") if name in body] == [16]
    assert (found["ok"], found["status"], found["error"]) == (True, 200, "")
    assert (found["input_tokens"], found["output_tokens"]) == (11, 2)
    assert found["cost_usd"] == "0.00000285"  # 11 of 0.15 and 2 of 0.60 dollars a million
    assert 0 <= found["head_ms"] <= found["first_token_ms"] <= found["total_ms"]
    (entry, *_) = await ends_of(gateway)
    assert (entry["subject"], entry["after"]["cost_usd"]) == ("openai", "0.00000285")
    assert (await ends_of(gateway))[1]["after"] == {"model": "gpt-4o-mini", "target": 1}
    assert not (await gateway.runtime.database.rows("SELECT 1 FROM usage_events"))


async def test_without_a_model_the_cheapest_that_writes_is_asked(tested):
    asked = []

    async def serve(request):
        asked.append(request.path)
        return web.json_response(answer())

    gateway = await tested(serve)
    found = await gateway.admin("POST", OPENAI)
    assert asked == ["/v1/chat/completions"]
    assert found["ok"]
    assert found["model"] not in ("text-embedding-3-small", "text-embedding-3-large")


@pytest.mark.parametrize(
    ("provider", "path", "header"),
    [("anthropic", "/v1/messages", "x-api-key"), ("gemini", ":streamGenerateContent", "x-goog-api-key")],
)
async def test_each_provider_is_asked_in_its_own_way(tested, provider, path, header):
    asked = []

    async def serve(request):
        asked.append((request.path, request.headers.get(header)))
        return web.json_response({"error": {"message": f"invalid key {KEY}"}}, status=401)

    gateway = await tested(serve)
    found = await gateway.admin("POST", f"/providers/{provider}/test")
    ((its_path, its_key),) = asked
    assert its_path.endswith(path)
    assert its_key == KEY
    assert (found["ok"], found["status"], found["error"]) == (False, 401, "invalid key [hidden]")
    assert "key is refused" in found["advice"]


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "max_output_field"), (402, "paid"), (404, "model"), (429, "limit"), (503, "status page")],
)
async def test_what_to_do_next(tested, status, advice):
    async def serve(request):
        return web.json_response({"error": {"message": "no"}}, status=status)

    gateway = await tested(serve)
    found = await gateway.admin("POST", OPENAI)
    assert (found["ok"], found["status"], found["error"]) == (False, status, "no")
    assert advice in found["advice"]
    assert found["cost_usd"] is None


async def test_an_answer_that_closes_a_circuit(tested):
    fails = [True]

    async def serve(request):
        return web.Response(status=500) if fails else web.json_response(answer())

    gateway = await tested(serve)
    health = gateway.proxy._router.find("gpt-4o-mini", time.time()).first.health[0]
    for _ in range(3):
        health.failed(health.begin())
    assert (await gateway.admin("POST", OPENAI))["circuit"] == "open"
    assert health.state == "open"
    fails.clear()
    found = await gateway.admin("POST", OPENAI)
    assert (found["ok"], found["circuit"], health.state) == (True, "open", "closed")
    assert "circuit is closed" in found["advice"]


async def test_one_at_a_time_and_not_for_long(tested):
    came = asyncio.Event()

    async def serve(request):
        came.set()
        await asyncio.sleep(3600)

    gateway = await tested(serve)
    first = asyncio.create_task(gateway.admin("POST", OPENAI))
    await came.wait()
    assert (await ends_of(gateway))[0]["after"].keys() == {"model", "target"}
    await gateway.admin("POST", OPENAI, status=409)
    found = await first
    assert (found["ok"], found["status"], found["head_ms"]) == (False, None, None)
    assert "0.5 s" in found["error"]
    assert "provider_test_s" in found["advice"]


async def test_what_can_not_be_tested(tested):
    gateway = await tested()
    before = await ends_of(gateway)
    await gateway.admin("POST", "/providers/nobody/test", status=404)
    await gateway.admin("POST", "/providers/groq/test", status=409)
    await gateway.admin("POST", OPENAI, {"model": "claude-haiku-4-5"}, status=400)
    await gateway.admin("POST", OPENAI, {"target": 2}, status=400)
    assert await ends_of(gateway) == before


def test_what_providers_say_is_found_and_secrets_are_hidden():
    assert said(b'{"error": {"message": "no"}}') == said(b'{"message": "no"}') == said(b'[{"error": "no"}]') == "no"
    assert said(b"<html>") == "<html>"
    assert said(b"") == "The answer is empty."
    target = TargetConfig("http://x", Secret(KEY), base_query="sig=abcdef", headers={"x": "other-secret", "y": "1"})
    assert without_secrets(f"{KEY} sk-swo****ours sig=abcdef other-secret 1", target) == (
        "[hidden] [hidden] [hidden] [hidden] 1"
    )


@pytest.mark.parametrize(
    "shown",
    ["sig=abc%2Fdef&v=1", "abc%2Fdef", "abc/def", "Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"],
)
def test_parts_of_a_query_and_of_header_values_are_hidden_too(shown):
    target = TargetConfig("http://x", base_query="sig=abc%2Fdef&v=1", headers={"x": "Basic dXNlcjpwYXNz"})
    assert without_secrets(f"no {shown}, v 1", target) == "no [hidden], v 1"


async def test_a_key_is_hidden_whole_before_an_error_is_cut(tested):
    async def serve(request):
        said = "x" * 490 + KEY + "y" * 5_000
        if request.headers["Authorization"].endswith(KEY):
            return web.json_response({"error": {"message": said}}, status=401)
        return await events(request, b'{"error":{"message":"' + b"sk-other-key-of-ours" + b"y" * 470 + b'"}}')

    gateway = await tested(serve)
    for target in (0, 1):
        found = await gateway.admin("POST", OPENAI, {"target": target})
        assert not found["ok"]
        assert len(found["error"]) <= 500
        assert "[hidden]"[: 500 - 490] in found["error"]
        assert "sk-" not in found["error"]
        assert "ours" not in found["error"]


async def test_of_a_long_stream_that_fails_the_end_is_said(tested):
    async def serve(request):
        chunk = (
            b'{"id":"x","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"OK"}}]}'
        )
        return await events(request, *[chunk] * 50, b'{"error":{"message":"' + KEY.encode() + b' is out of credit"}}')

    found = await (await tested(serve)).admin("POST", OPENAI)
    assert not found["ok"]
    assert len(found["error"]) == 500
    assert found["error"].endswith('{"error":{"message":"[hidden] is out of credit"}}')
