"""Work at the provider beside one call, through a whole gateway: what it holds, what it costs, who may ask for it."""

import json
from dataclasses import replace
from datetime import date

import pytest

from billing.ledger.explanations import explain, format_explanation
from billing.money import format_usd, parse_usd
from billing.plans import Plan
from billing.pricing import FACTOR_SCALE, PriceRow, PriceTable
from gateway.config.settings import ModelConfig, Settings
from tests.gateway.conftest import chat
from tests.support.answering import DONE, WORDS, Provider, answer, saying, streaming, usage, usage_chunk
from tests.support.gateways import INPUT, OUTPUT, ask, refusal, spent_nano, the_event

pytestmark = pytest.mark.slow

WINDOW = 10_000
SEARCH_NANO = 25_000_000
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}


def with_searches(settings: Settings) -> Settings:
    """Settings in which gpt-4o-mini can search, and gpt-4o costs ten times as much; others have no price."""
    day = date(2025, 1, 1)
    cheap = {"input": INPUT * 10**6, "output": OUTPUT * 10**6}
    dear = {name: 10 * rate for name, rate in cheap.items()}
    rows = [
        PriceRow("openai", "gpt-4o-mini", day, cheap, {"search": SEARCH_NANO}, (), None, None, 1000, WINDOW),
        PriceRow("openai", "gpt-4o", day, dear, {}, (), None, None, 1000, WINDOW),
    ]
    return replace(settings, prices=PriceTable(rows))


async def test_searches_are_held_and_charged_and_explained(gateway_of):
    counts = usage(20_000, 5, server_tool_use={"web_search_requests": 2})
    provider = Provider(saying(answer(reported=counts)))
    gateway = await gateway_of(provider.serve, change=with_searches)
    body = chat(model="gpt-4o-mini", max_tokens=10, tools=[SEARCH])
    rounds = len(json.dumps(body).encode()) + 2 * WINDOW  # what one search may add is more than the window has room for
    held_nano = rounds * INPUT + 2 * SEARCH_NANO + 10 * OUTPUT
    poor = await gateway.customer(format_usd(2 * WINDOW * INPUT + 2 * SEARCH_NANO))
    billing = refusal(await ask(poor, body), 402, "billing_required")["billing"]
    assert parse_usd(billing["required_usd"]) - 2 * SEARCH_NANO - 10 * OUTPUT > 2 * WINDOW * INPUT
    assert parse_usd(billing["required_usd"]) <= held_nano
    customer = await gateway.customer()
    assert (await ask(customer, body)).status == 200
    event = await the_event(customer, 20_000 * INPUT + 5 * OUTPUT + 2 * SEARCH_NANO)
    assert event["units"] == {"searches": 2}
    found = await gateway.runtime.reports.priced_event(event["id"])
    assert found is not None
    stored = explain(*found)
    assert stored.adds_up
    assert [(line.price_class, line.quantity, line.rate_nano) for line in stored.lines][-1] == (
        "search",
        2,
        SEARCH_NANO,
    )
    assert "search" in format_explanation(stored)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_search_that_is_not_reported_is_charged_once(customer_of, stream):
    reply = streaming(*WORDS, usage_chunk(), DONE) if stream else saying(answer())
    customer = await customer_of(reply, change=with_searches)
    await ask(customer, chat(model="gpt-4o-mini", web_search_options={}, stream=stream))
    await the_event(customer, 10 * INPUT + 5 * OUTPUT + SEARCH_NANO)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"tools": [{"type": "image_generation"}]}, 400, "invalid_request_error", "tools[0]"),
        ({"preset": "x"}, 400, "invalid_request_error", "preset"),
        ({"models": ["gpt-4o", "unpriced"]}, 400, "model_not_priced", "model"),
        ({"modalities": ["text", "audio"]}, 400, "model_not_priced", "model"),
        ({"model": "gpt-4o", "tools": [SEARCH]}, 400, "model_not_priced", "model"),
        ({"model": "openai/gpt-4o-mini:online"}, 400, "model_not_priced", "model"),
    ],
)
async def test_what_has_no_bound_or_no_price_never_reaches_the_provider(customer_of, fields, status, code, param):
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve, change=with_searches)
    error = refusal(await ask(customer, chat(**{"model": "gpt-4o-mini", **fields})), status, code)
    assert error["param"] == param
    assert not provider.sent
    assert await spent_nano(customer) == 0


async def test_another_model_that_is_named_is_held_at_its_price_and_charged_if_it_served(gateway_of):
    provider = Provider(saying(answer(model="gpt-4o-2024-11-20")))
    gateway = await gateway_of(provider.serve, change=with_searches)
    body = chat(model="gpt-4o-mini", max_tokens=1000, models=["gpt-4o"])
    poor = await gateway.customer(format_usd(1000 * 10 * OUTPUT))
    refusal(await ask(poor, body), 402, "billing_required")
    customer = await gateway.customer()
    assert (await ask(customer, body)).status == 200
    event = await the_event(customer, 10 * (10 * INPUT + 5 * OUTPUT))
    found = await gateway.runtime.reports.priced_event(event["id"])
    assert found is not None
    stored = explain(*found)
    assert stored.adds_up
    assert stored.price is not None
    assert stored.price.model == "gpt-4o"
    narrow = await gateway.customer(models=["gpt-4o-mini"])
    refusal(await ask(narrow, body), 403, "model_not_allowed")
    quota = {"window": "day", "metric": "tokens", "limit": 5, "model": "gpt-4o"}
    bounded = await gateway.customer(quotas=[quota])
    assert refusal(await ask(bounded, body), 400, "invalid_request_error")["param"] == "models"
    everywhere = await gateway.customer(quotas=[{**quota, "model": "gpt-*", "limit": 10**6}])
    assert (await ask(everywhere, body)).status == 200
    cheap = Provider(saying(answer(model="gpt-4o-mini-2024-07-18")))
    provider.reply = cheap.reply
    assert (await ask(customer, body)).status == 200
    assert await spent_nano(customer) == 11 * (10 * INPUT + 5 * OUTPUT)


@pytest.mark.parametrize("served", ["gpt-4o-mini", "gpt-4o"])
@pytest.mark.parametrize(
    ("of_plan", "markups", "own", "percent"),
    [
        (0, {"gpt-4o": 50}, {}, 50),
        (0, {"gpt-4o-mini": 50}, {}, 50),
        (20, {"gpt-4o-mini": 0}, {}, 20),
        (20, {"gpt-4o": 0}, {}, 20),
        (0, {"gpt-4o-mini": 10, "gpt-*": 30}, {}, 30),
        (0, {}, {"gpt-4o": 40}, 40),
        (90, {}, {"gpt-4o": 40, "gpt-4o-mini": 5}, 40),
        (0, {}, {}, 0),
    ],
)
async def test_no_model_is_cheaper_beside_one_with_a_lower_markup(gateway_of, of_plan, markups, own, percent, served):
    def change(settings: Settings) -> Settings:
        scaled = tuple((name, each * FACTOR_SCALE) for name, each in markups.items())
        plan = Plan("marked", "Marked", 0, markup_scaled=of_plan * FACTOR_SCALE, markups=scaled)
        models = {
            name: ModelConfig(name, "openai", name, markup_scaled=own.get(name, 0) * FACTOR_SCALE)
            for name in ("gpt-4o-mini", "gpt-4o")
        }
        plans, models = {**settings.plans, "marked": plan}, {**settings.models, **models}
        return replace(with_searches(settings), plans=plans, models=models)

    gateway = await gateway_of(saying(answer(model=served)), change=change)
    body = chat(model="gpt-4o-mini", max_tokens=1000, models=["gpt-4o"])
    input_bytes, times = len(json.dumps(body).encode()), 10 if served == "gpt-4o" else 1
    poor = await gateway.customer("0.000001", account={"plan": "marked"})
    required = parse_usd(refusal(await ask(poor, body), 402, "billing_required")["billing"]["required_usd"])
    output_nano = 1000 * 10 * OUTPUT * (100 + percent) // 100
    assert output_nano < required <= output_nano + input_bytes * 10 * INPUT * (100 + percent) // 100
    customer = await gateway.customer(account={"plan": "marked"})
    assert (await ask(customer, body)).status == 200
    event = await the_event(customer, times * (10 * INPUT + 5 * OUTPUT) * (100 + percent) // 100)
    found = await gateway.runtime.reports.priced_event(event["id"])
    assert found is not None
    assert found.event.markup_scaled == percent * FACTOR_SCALE
    assert explain(*found).adds_up
