"""Google's own library by its base URL alone: what it makes of answers, of refusals and of a provider's errors."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.clients.libraries import NAMED, Asker
from tests.clients.trying import check_libraries
from tests.gateway.conftest import Customer
from tests.gateway.dialects.gemini.support import MODEL, PIECES, answer, candidate, counts, events
from tests.support.answering import PROVIDER_KEY, Provider, saying, streaming
from tests.support.gateways import assert_free, spent_nano, the_event

pytestmark = pytest.mark.slow
LIBRARY, PROVIDER = NAMED["google-genai"], "gemini"
IN, OUT = 300, 2_500


async def ask(asker: Asker, customer: Customer, how: str = "plain", **asked: Any) -> dict[str, Any]:
    """What the library said."""
    asked = {"model": MODEL, "prompt": "Say something.", "base_url": customer.gateway.url, **asked}
    told = await asker.ask(how=how, api_key=customer.key, **asked)
    assert told.text is not None, (told.raised, told.message)
    assert told.waits == ()
    found: dict[str, Any] = json.loads(told.text)
    return found


async def test_answers_streams_and_tools(asker, make_customer):
    provider = Provider(saying(answer(usage=counts(10, 5, thoughtsTokenCount=2, totalTokenCount=17))))
    made = await make_customer(provider.serve)
    for version in (None, "v1beta"):
        customer = await made.gateway.customer()
        shown = (await ask(asker, customer, version=version))["answer"]
        assert (shown["text"], shown["usage"]["total_token_count"]) == ("Good day.", 17)
        assert provider.sent[-1].path.startswith(f"/{version or 'v1'}")
        assert provider.sent[-1].headers["x-goog-api-key"] == PROVIDER_KEY
        assert customer.key not in str(provider.sent[-1].headers)
        await the_event(customer, 10 * IN + 7 * OUT)
    customer, provider.reply = await made.gateway.customer(), streaming(events(*PIECES))
    chunks = (await ask(asker, customer, "stream"))["answer"]
    assert "".join(chunk["text"] or "" for chunk in chunks) == 'Good "day" }], friend. \\'
    assert chunks[-1]["usage"]["total_token_count"] == 20
    await the_event(customer, 10 * IN + 10 * OUT)
    call = {"functionCall": {"name": "weather", "args": {"city": "Bonn"}}}
    provider.reply = saying(answer({"content": {"parts": [call], "role": "model"}, "finishReason": "STOP"}))
    customer = await made.gateway.customer()
    shown = (await ask(asker, customer, "tools"))["answer"]
    assert shown["calls"] == [["weather", {"city": "Bonn"}]]
    assert provider.sent[-1].json["tools"][0]["functionDeclarations"][0]["name"] == "weather"
    await the_event(customer, 10 * IN + 5 * OUT)
    provider.reply = saying(answer(candidate(None, "SAFETY"), usage=counts(10, 0)))  # an answer that is blocked
    customer = await made.gateway.customer()
    assert (await ask(asker, customer))["answer"]["text"] is None
    await the_event(customer, 10 * IN)


async def test_the_local_provider(asker, make_customer):
    customer = await make_customer(saying(answer()), models=["demo", "gemini-2.5-*"])
    whole, streamed = (await ask(asker, customer, "asynchronous", model="demo"))["answer"]
    assert whole == streamed
    assert (await ask(asker, customer, "count", model="demo"))["answer"] > 0
    assert (await ask(asker, customer, "embed", model="demo"))["answer"] == [768, 768]
    listed = (await ask(asker, customer, "models"))["answer"]
    assert len(set(listed)) == len(listed) > 3
    assert {"models/demo", f"models/{MODEL}"} <= set(listed)
    assert (await ask(asker, customer, "model"))["answer"] == f"models/{MODEL}"


async def test_refusals_are_its_own_exceptions(asker, make_customer):
    provider = Provider(saying(answer()))

    def narrow(settings):
        return replace(settings, proxy_max_body_bytes=4_096)

    customer = await make_customer(provider.serve, change=narrow)
    gateway = customer.gateway
    month = [{"window": "month", "metric": "requests", "limit": 0}]
    for code, status, reason, made, asked in (
        (401, "UNAUTHENTICATED", "invalid_api_key", replace(customer, key="mg_no"), {}),
        (402, "FAILED_PRECONDITION", "billing_required", await gateway.customer("0"), {}),
        (402, "FAILED_PRECONDITION", "billing_required", await gateway.customer("0"), {"how": "stream"}),
        (402, "FAILED_PRECONDITION", "billing_required", await gateway.customer("0"), {"how": "asynchronous"}),
        (403, "PERMISSION_DENIED", "model_not_allowed", await gateway.customer(models=["x"]), {}),
        (404, "NOT_FOUND", "model_not_found", customer, {"model": "nothing"}),
        (404, "NOT_FOUND", "model_not_found", customer, {"model": "nothing", "how": "model"}),
        (400, "INVALID_ARGUMENT", "invalid_request_error", customer, {"max_tokens": -1}),
        (413, "INVALID_ARGUMENT", "request_too_large", customer, {"prompt": "a" * 5_000}),
        (429, "RESOURCE_EXHAUSTED", "quota_exceeded", await gateway.customer(quotas=month), {}),
    ):
        refusal = await ask(asker, made, **asked)
        assert (refusal["raised"], refusal["code"], refusal["status"]) == ("ClientError", code, status), refusal
        error = refusal["details"]["error"]
        assert error["details"][0]["metadata"]["code"] == reason
        assert error["message"] == refusal["message"]
        if code == 402:
            assert "setup_url" in error["billing"]
        if code == 429:
            assert error["quota"]["window"] == "month"
    assert provider.sent == []


async def test_a_provider_s_errors(asker, make_customer):
    provider = Provider(saying({}))
    customer = await make_customer(provider.serve)
    for status, raised in ((400, "ClientError"), (429, "ClientError"), (503, "ServerError")):
        body = {"error": {"code": status, "message": "Come back later.", "status": "X"}}
        provider.reply = saying(body, status)
        told = await ask(asker, customer)
        assert (told["raised"], told["code"], told["details"]) == (raised, status, body)
    await assert_free(customer)
    error = {"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}
    provider.reply = streaming(events(*PIECES[:2], error))  # raised, and what has passed is charged
    told = await ask(asker, customer, "stream")
    assert (told["raised"], told["message"]) == ("ServerError", "Overloaded.")
    assert await spent_nano(customer) > 0
    customer = await customer.gateway.customer()
    provider.reply = streaming(events(*PIECES[:2]), cut=True)  # it breaks off: no answer
    told = await asker.ask(
        how="stream", base_url=customer.gateway.url, api_key=customer.key, model=MODEL, prompt="Say something."
    )
    assert told.raised is not None
    assert (await the_event(customer))["status"] == 502


async def test_what_it_makes_of_each(make_gateway, upstream, tmp_path, subtests):
    await check_libraries((LIBRARY,), make_gateway, upstream, tmp_path, subtests)
