"""Moderations: free by a price row of zero, a request all the same, and never free by accident."""

from dataclasses import replace

import pytest
from openai import AsyncOpenAI

from tests.support.answering import Provider, saying
from tests.support.gateways import ask, assert_free, the_event

PATH = "/v1/moderations"
VERDICT = {"id": "modr-1", "model": "omni-moderation-latest", "results": [{"flagged": False}]}
PARTS = [
    {"type": "text", "text": "Say something."},
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
]


@pytest.mark.parametrize("given", ["Say something.", ["One.", "Two."], PARTS])
async def test_a_moderation_counts_as_a_request_and_costs_nothing(customer_of, given):
    provider = Provider(saying(VERDICT))
    customer = await customer_of(provider.serve)
    fetched = await ask(customer, {"model": "omni-moderation-latest", "input": given}, path=PATH)
    assert (fetched.status, fetched.json) == (200, VERDICT)
    event = await the_event(customer, 0)
    assert (event["total_tokens"], event["estimated"], event["endpoint"]) == (0, False, PATH)
    assert (await customer.balance())["balance_usd"] == "5.00"


async def test_requests_are_counted_in_their_windows(gateway):
    customer = await gateway.customer("5.00", quotas=[{"window": "day", "metric": "requests", "limit": 1}])
    body = {"model": "demo-moderation", "input": "Say something."}
    assert (await ask(customer, body, path=PATH)).status == 200
    refused = await ask(customer, body, path=PATH)
    assert (refused.status, refused.json["error"]["code"]) == (429, "quota_exceeded")


async def test_a_model_that_is_left_out_is_the_configured_one(customer_of):
    provider = Provider(saying(VERDICT))
    customer = await customer_of(provider.serve)
    assert (await ask(customer, {"input": "Say something."}, path=PATH)).status == 200
    assert provider.sent[0].json == {"input": "Say something.", "model": "omni-moderation-latest"}
    assert (await the_event(customer, 0))["model"] == "omni-moderation-latest"


async def test_a_default_that_is_not_served_is_named(customer_of):
    customer = await customer_of(moderation_model="elsewhere")
    refused = await ask(customer, {"input": "Say something."}, path=PATH)
    assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
    assert "elsewhere" in refused.json["error"]["message"]
    missing = await ask(customer, {"messages": []})
    assert missing.json["error"]["message"] == "Missing required parameter: 'model'."


async def test_a_model_with_a_price_is_charged_for_what_it_read(gateway):
    customer = await gateway.customer("5.00")
    assert (await ask(customer, {"model": "demo", "input": "Say something."}, path=PATH)).status == 200
    event = await the_event(customer)
    assert (event["input_tokens"], event["charged_usd"], event["estimated"]) == (3, "0.00000045", True)


async def test_a_model_without_a_price_is_refused(customer_of):
    provider = Provider(saying(VERDICT))

    def unpriced(settings):
        rows = [row for row in settings.prices.rows if not row.model.startswith("omni")]
        return replace(settings, prices=type(settings.prices)(rows))

    customer = await customer_of(provider.serve, change=unpriced)
    refused = await ask(customer, {"model": "openai/omni-moderation-latest", "input": "Hi."}, path=PATH)
    assert (refused.status, refused.json["error"]["code"]) == (400, "model_not_priced")
    assert provider.sent == []
    await assert_free(customer)


async def test_openai_s_library(gateway):
    customer = await gateway.customer("5.00")
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=customer.key, max_retries=0) as client:
        found = await client.moderations.create(model="demo-moderation", input=["One.", "Two."])
    assert [each.flagged for each in found.results] == [False, False]
