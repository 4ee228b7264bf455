"""Anthropic's own library by its base URL alone: what it makes of answers, of refusals and of a provider's errors; and
that what aimock answers directly and through the gateway is the same."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.settings import Settings
from tests.clients.aimock import aimock, missing
from tests.clients.libraries import NAMED, Asker
from tests.gateway.conftest import Customer, Handler
from tests.gateway.dialects.anthropic.bodies import answer, event, stream
from tests.support.gateways import Provider, assert_free, saying, spent_nano, streaming, the_event

pytestmark = pytest.mark.slow
LIBRARY, PROVIDER = NAMED["anthropic-python"], "anthropic"
MODEL = "claude-haiku-4-5"
TRIES = 3
"""A request and two retries, as the library does by itself."""
Upstream = Callable[[Handler], Any]


async def ask(asker: Asker, customer: Customer, how: str = "plain", **asked: Any) -> dict[str, Any]:
    """What the library said, and how often it waited."""
    asked = {"model": MODEL, "prompt": "Say something.", "base_url": customer.gateway.url, **asked}
    told = await asker.ask(how=how, api_key=customer.key, **asked)
    assert told.text is not None, (told.raised, told.message)
    return {**json.loads(told.text), "waits": len(told.waits)}


async def test_answers(asker: Asker, make_customer: Any) -> None:
    provider = Provider(saying(answer()))
    customer = await make_customer(provider.serve)
    plain = (await ask(asker, customer))["said"]
    assert plain["message"] == answer()
    (found,) = await customer.events()
    assert plain["request_id"] == found["id"]
    said = await ask(asker, customer, "beta", betas=["interleaved-thinking-2025-05-14"])
    assert said["said"]["message"]["content"] == answer()["content"]
    assert provider.sent[1].headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"
    assert all(customer.key not in str(sent.headers) for sent in provider.sent)


async def test_streams(asker: Asker, make_customer: Any) -> None:
    customer = await make_customer(streaming(*stream("Good day", ", friend.")))
    said = (await ask(asker, customer, "stream"))["said"]
    assert said["text"] == "Good day, friend."
    assert said["message"]["usage"]["output_tokens"] == 15
    assert (await ask(asker, customer, "events"))["said"][-1] == "message_stop"


async def test_the_local_provider(asker: Asker, make_customer: Any) -> None:
    customer = await make_customer(saying(answer()), models=["demo", "claude-*"])
    plain, streamed = (await ask(asker, customer, "asynchronous", model="demo"))["said"]
    assert plain == streamed
    assert (await ask(asker, customer, "count", model="demo"))["said"] > 0
    listed = (await ask(asker, customer, "models"))["said"]
    assert len(set(listed)) == len(listed) > 3
    assert (await ask(asker, customer, "model"))["said"] == MODEL


async def test_refusals_are_its_own_exceptions(asker: Asker, make_customer: Any) -> None:
    provider = Provider(saying(answer()))

    def narrow(settings: Settings) -> Settings:
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
        said = await ask(asker, made, **asked)
        assert (said["raised"], said["status"], said["type"]) == (raised, status, type_), said
        assert (said["body"]["error"]["code"], said["waits"]) == (code, 0), said
        assert said["body"]["error"]["message"] in said["message"]
        assert said["request_id"] == said["body"]["request_id"]
        if status == 402:
            assert "setup_url" in said["body"]["error"]["billing"]
        if status == 429:
            assert said["body"]["error"]["quota"]["window"] == "month"
    assert provider.sent == []


@pytest.mark.parametrize(
    ("status", "raised", "tries"),
    [
        (400, "BadRequestError", 1),
        (413, "ContentTooLargeError", 1),
        (429, "RateLimitError", TRIES),
        (500, "InternalServerError", TRIES),
        (529, "OverloadedError", TRIES),
    ],
)
async def test_a_provider_s_errors(asker: Asker, make_customer: Any, status: int, raised: str, tries: int) -> None:
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "Come back later."}}
    provider = Provider(saying(said, status))
    customer = await make_customer(provider.serve)
    told = await ask(asker, customer)
    assert (told["raised"], told["status"], told["body"]) == (raised, status, said)
    assert (len(provider.sent), told["waits"]) == (tries, tries - 1)
    await assert_free(customer)


async def test_an_error_in_a_stream_is_raised_and_what_passed_is_charged(asker: Asker, make_customer: Any) -> None:
    broken = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    customer = await make_customer(streaming(*stream("Good day")[:4], broken))
    told = await ask(asker, customer, "events")
    assert (told["status"], told["type"]) == (200, "overloaded_error")
    assert await spent_nano(customer) > 0


async def test_a_stream_that_breaks_off_is_no_answer(asker: Asker, make_customer: Any) -> None:
    customer = await make_customer(streaming(*stream("Good", " day")[:-3], cut=True))
    told = await asker.ask(
        how="events", base_url=customer.gateway.url, api_key=customer.key, model=MODEL, prompt="Say something."
    )
    assert told.raised is not None
    assert (await the_event(customer))["status"] == 502


FIXTURES = (
    {
        "match": {"userMessage": "Say something."},
        "response": {"content": "Good day, friend.", "id": "msg_1", "usage": {"input_tokens": 12, "output_tokens": 7}},
    },
    {
        "match": {"userMessage": "weather"},
        "response": {
            "toolCalls": [{"id": "toolu_1", "name": "weather", "arguments": '{"city":"Bonn"}'}],
            "usage": {"input_tokens": 30, "output_tokens": 9},
        },
    },
    {
        "match": {"userMessage": "fail"},
        "response": {"error": {"message": "No.", "type": "invalid_request_error"}, "status": 400},
    },
)


@asynccontextmanager
async def both(make_customer: Any, folder: Path) -> AsyncIterator[tuple[Customer, str]]:
    if reason := missing():
        pytest.skip(reason)
    async with aimock(folder, FIXTURES) as url:
        yield await make_customer(url), url


async def test_aimock_says_the_same_through_the_gateway(asker: Asker, make_customer: Any, tmp_path: Path) -> None:
    async with both(make_customer, tmp_path) as (customer, url):
        for how, prompt in (
            *(("plain", "Say something."), ("stream", "Say something."), ("events", "Say something.")),
            *(("tools", "weather"), ("plain", "fail"), ("stream", "fail")),
        ):
            direct = await ask(asker, customer, how, prompt=prompt, base_url=url)
            through = await ask(asker, customer, how, prompt=prompt)
            for told in (direct, through):
                told.pop("request_id", None)
                if how == "plain" and "said" in told:
                    told["said"].pop("request_id")
            assert through == direct, (how, prompt)
        events = await customer.events()
        used = sorted((found["input_tokens"], found["output_tokens"]) for found in events)
        assert used == [(12, 7), (12, 7), (12, 7), (30, 9)]
        assert await spent_nano(customer) == 3 * (12 * 1_000 + 7 * 5_000) + 30 * 1_000 + 9 * 5_000
