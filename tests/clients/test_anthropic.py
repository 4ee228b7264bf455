"""Anthropic's own library by its base URL alone: what it makes of answers, of refusals and of a provider's errors."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.clients.libraries import NAMED, Asker
from tests.clients.trying import check_libraries
from tests.gateway.conftest import Customer
from tests.gateway.dialects.anthropic.bodies import answer, event, stream
from tests.support.answering import Provider, saying, streaming
from tests.support.gateways import assert_free, spent_nano, the_event

pytestmark = pytest.mark.slow
LIBRARY, PROVIDER = NAMED["anthropic-python"], "anthropic"
MODEL = "claude-haiku-4-5"
# A request and two retries, as the library does by itself.
TRIES = 3


async def ask(asker: Asker, customer: Customer, how: str = "plain", **asked: Any) -> dict[str, Any]:
    """What the library said, and how often it waited."""
    asked = {"model": MODEL, "prompt": "Say something.", "base_url": customer.gateway.url, **asked}
    told = await asker.ask(how=how, api_key=customer.key, **asked)
    assert told.text is not None, (told.raised, told.message)
    return {**json.loads(told.text), "waits": len(told.waits)}


async def test_answers_and_streams(asker, make_customer):
    provider = Provider(saying(answer()))
    customer = await make_customer(provider.serve)
    plain = (await ask(asker, customer))["answer"]
    assert plain["message"] == answer()
    (found,) = await customer.events()
    assert plain["request_id"] == found["id"]
    shown = await ask(asker, customer, "beta", betas=["interleaved-thinking-2025-05-14"])
    assert shown["answer"]["message"]["content"] == answer()["content"]
    assert provider.sent[1].headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"
    assert all(customer.key not in str(sent.headers) for sent in provider.sent)
    provider.reply = streaming(*stream("Good day", ", friend."))
    streamed = (await ask(asker, customer, "stream"))["answer"]
    assert streamed["text"] == "Good day, friend."
    assert streamed["message"]["usage"]["output_tokens"] == 15
    assert (await ask(asker, customer, "events"))["answer"][-1] == "message_stop"


async def test_the_local_provider(asker, make_customer):
    customer = await make_customer(saying(answer()), models=["demo", "claude-*"])
    plain, streamed = (await ask(asker, customer, "asynchronous", model="demo"))["answer"]
    assert plain == streamed
    assert (await ask(asker, customer, "count", model="demo"))["answer"] > 0
    listed = (await ask(asker, customer, "models"))["answer"]
    assert len(set(listed)) == len(listed) > 3
    assert (await ask(asker, customer, "model"))["answer"] == MODEL


async def test_refusals_are_its_own_exceptions(asker, make_customer):
    provider = Provider(saying(answer()))

    def narrow(settings):
        return replace(settings, proxy_max_body_bytes=4_096)

    customer = await make_customer(provider.serve, change=narrow)
    gateway = customer.gateway
    month = [{"window": "month", "metric": "requests", "limit": 0}]
    for raised, status, type_, code, made, asked in (
        ("AuthenticationError", 401, "authentication_error", "invalid_api_key", replace(customer, key="mg_no"), {}),
        ("PaymentRequiredError", 402, "billing_error", "billing_required", await gateway.customer("0"), {}),
        (
            "PaymentRequiredError",
            402,
            "billing_error",
            "billing_required",
            await gateway.customer("0"),
            {"how": "stream"},
        ),
        (
            "PermissionDeniedError",
            403,
            "permission_error",
            "model_not_allowed",
            await gateway.customer(models=["x"]),
            {},
        ),
        ("NotFoundError", 404, "not_found_error", "model_not_found", customer, {"model": "nothing"}),
        ("BadRequestError", 400, "invalid_request_error", "invalid_request_error", customer, {"max_tokens": -1}),
        ("ContentTooLargeError", 413, "request_too_large", "request_too_large", customer, {"prompt": "a" * 5_000}),
        ("RateLimitError", 429, "rate_limit_error", "quota_exceeded", await gateway.customer(quotas=month), {}),
    ):
        refusal = await ask(asker, made, **asked)
        assert (refusal["raised"], refusal["status"], refusal["type"]) == (raised, status, type_), refusal
        assert (refusal["body"]["error"]["code"], refusal["waits"]) == (code, 0), refusal
        assert refusal["body"]["error"]["message"] in refusal["message"]
        assert refusal["request_id"] == refusal["body"]["request_id"]
        if status == 402:
            assert "setup_url" in refusal["body"]["error"]["billing"]
        if status == 429:
            assert refusal["body"]["error"]["quota"]["window"] == "month"
    assert provider.sent == []


async def test_a_provider_s_errors(asker, make_customer):
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Come back later."}}
    provider = Provider(saying(body))
    customer = await make_customer(provider.serve)
    for status, raised, tries in (
        (400, "BadRequestError", 1),
        (413, "ContentTooLargeError", 1),
        (429, "RateLimitError", TRIES),
        (500, "InternalServerError", TRIES),
        (529, "OverloadedError", TRIES),
    ):
        provider.reply = saying(body, status)
        provider.sent.clear()
        told = await ask(asker, customer)
        assert (told["raised"], told["status"], told["body"]) == (raised, status, body)
        assert (len(provider.sent), told["waits"]) == (tries, tries - 1)
    await assert_free(customer)
    broken = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    provider.reply = streaming(*stream("Good day")[:4], broken)  # raised, and what has passed is charged
    told = await ask(asker, customer, "events")
    assert (told["status"], told["type"]) == (200, "overloaded_error")
    assert await spent_nano(customer) > 0
    customer = await customer.gateway.customer()
    provider.reply = streaming(*stream("Good", " day")[:-3], cut=True)  # it breaks off: no answer
    told = await asker.ask(
        how="events", base_url=customer.gateway.url, api_key=customer.key, model=MODEL, prompt="Say something."
    )
    assert told.raised is not None
    assert (await the_event(customer))["status"] == 502


async def test_what_it_makes_of_each(make_gateway, upstream, tmp_path, subtests):
    await check_libraries((LIBRARY,), make_gateway, upstream, tmp_path, subtests)
